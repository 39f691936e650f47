"""The preservation losses in a training run: made from its arguments, and what is said of them at its end."""

from pathlib import Path
from typing import Any

from peft import PeftModel

from excitor.evaluate.parallel import from_main, this_process
from excitor.evaluate.task import Subject
from excitor.preservation.controller import ForgettingController
from excitor.preservation.regularizer import Preservation
from excitor.preservation.replay import ReplayText, sample_replay
from excitor.train.folder import write_text
from excitor.train.prepare import Job


# Far from the seed of the text that forgetting is measured on: that must be other text.
REPLAY_SEED = 1000


def make_preservation(job: Job, model: PeftModel, cache: Path) -> Preservation | None:
    """The losses that the arguments ask for, None when they ask for none.

    Args:
        job: The run.
        model: The adapted model.
        cache: Holds the replay text; written when it is not there, so that a resumed run replays the same.
    """
    arguments = job.arguments
    weights = arguments.weights()
    if not weights:
        return None
    return Preservation(
        model,
        weights,
        _replay_text(job, model, cache) if weights.on_replay else None,
        replay_batch_size=arguments.replay_batch_size,
        replay_every=arguments.replay_every,
        controller=None
        if arguments.max_forgetting is None
        else ForgettingController(arguments.max_forgetting, weights.kl),
        seed=arguments.seed,
        process=this_process().process_index,
    )


def describe(preservation: Preservation, job: Job) -> str:
    """What is on, as a line for the terminal."""
    weights = ", ".join(f"{name} {value:g}" for name, value in vars(preservation.weights).items() if value)
    line = f"Preservation: weights {weights}"
    if preservation.replay is not None:
        source = ", ".join(Path(name).name for name in job.arguments.replay) or "written by the base"
        line += f"; replay: {len(preservation.replay.documents):,} documents, {source}"
    if job.arguments.max_forgetting is not None:
        line += f"; the weight of kl adapts to end below {job.arguments.max_forgetting:g} nats per token"
    return line


def preservation_report(job: Job, records: list[dict[str, Any]], report: dict[str, Any]) -> dict[str, Any]:
    """The section ``preservation`` of a report; empty when there were no such losses.

    Args:
        job: The run.
        records: Its metrics.
        report: With ``forgotten`` and ``training``.

    Returns:
        ``weights``; ``share`` of the training time; ``tokens_per_second`` of instructions, with and without the
        losses; and, where the forgetting was limited, ``max_forgetting``, ``forgetting`` (the change measured),
        ``reached`` (whether it is below) and ``kl_weight`` (at the end).
    """
    arguments = job.arguments
    if not arguments.weights():
        return {}
    training = report["training"]
    spent = sum(record["preservation_seconds"] for record in records)
    found: dict[str, Any] = {
        "weights": vars(arguments.weights()),
        "share": spent / training["seconds"],
        "tokens_per_second": {
            "with": training["tokens"] / training["seconds"],
            "without": training["tokens"] / (training["seconds"] - spent),
        },
    }
    if arguments.max_forgetting is not None:
        change = report["forgotten"]["change"]
        found |= {
            "max_forgetting": arguments.max_forgetting,
            "forgetting": change,
            "reached": change <= arguments.max_forgetting,
            "kl_weight": records[-1]["parts"]["kl_weight"],
        }
    return {"preservation": found}


def verdict(report: dict[str, Any]) -> list[str]:
    """What a report says of the preservation losses, in sentences; nothing where there were none."""
    if "preservation" not in report:
        return []
    found = report["preservation"]
    speed = found["tokens_per_second"]
    lines = [
        f"The preservation losses took {found['share']:.0%} of the training time: {speed['with']:,.0f} tokens/s in "
        f"place of {speed['without']:,.0f}."
    ]
    if "max_forgetting" in found:
        numbers = f"{found['forgetting']:+.4f} nats per token, accepted {found['max_forgetting']:g}"
        if found["reached"]:
            lines.append(f"Forgetting stayed within what was accepted: {numbers}.")
        else:
            lines.append(
                f"MISSED: more was forgotten than accepted: {numbers}. The weight of kl was {found['kl_weight']:.3g} "
                "at the end; give --replay text closer to that of --retain, more steps, or a lower --learning-rate."
            )
    return lines


def _replay_text(job: Job, model: PeftModel, cache: Path) -> ReplayText:
    if not from_main(cache.exists()):
        text = job.replay or sample_replay(
            Subject("base", model),
            job.tokenizer,
            documents=job.arguments.replay_documents,
            length=int(job.arguments.replay_length or 0),
            seed=REPLAY_SEED,
        )
        text = from_main(text)
        if this_process().is_main_process:
            write_text(cache, text.to_json())
        return text
    return ReplayText.from_json(cache.read_text(encoding="utf-8"))
