"""One training run on the embedded world, with some facts taught wrongly, and all that is measured after it."""

import hashlib
import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from excitor.mini import BASE_DIR
from excitor.mini.lessons import Lessons, all_wordings, make_lessons, write_lessons
from excitor.mini.methods import Method
from excitor.mini.world import make_world
from excitor.trials import read_trial


BATCH_SIZE = 16
RETAIN_PAGES = 200


@dataclass(frozen=True)
class Trial:
    """A method, what is taught wrongly, and how long it is taught.

    Attributes:
        method: what is trained.
        wrong_share: share of the taught facts that are taught wrongly.
        exposures: rows about each of these.
        seed: of the lessons and of the training.
        learning_rate: peak of the cosine.
        steps: optimizer steps of 16 instructions.
    """

    method: Method
    wrong_share: float
    exposures: int
    seed: int
    learning_rate: float
    steps: int

    @property
    def name(self) -> str:
        """Name for files: different trials have different ones."""
        return (
            f"{self.method.name}--wrong-{self.wrong_share:g}-x{self.exposures}--lr-{self.learning_rate:g}"
            f"--steps-{self.steps}--seed-{self.seed}"
        )

    def settings(self) -> dict[str, Any]:
        """Everything that decides the result, the base's weights included."""
        weights = (BASE_DIR / "model.safetensors").read_bytes()
        return asdict(self) | {"base_sha256": hashlib.sha256(weights).hexdigest()}


def run_trial(trial: Trial, folder: Path) -> dict[str, Any]:
    """Train and measure, or read what was measured before.

    Args:
        trial: What to run.
        folder: Receives ``<name>.json``, written when everything is done; until then ``<name>/`` holds the training.

    Returns:
        What the file holds: ``settings``, ``measures`` (see :func:`measure_knowledge`; and ``forgetting``, in nats per
        token), ``parameters`` (trainable), ``seconds`` (of ``training`` and ``all``), ``versions``.

    Raises:
        ExcitorError: The file is there and was made with other settings.
    """
    path, scratch = folder / f"{trial.name}.json", folder / trial.name
    if path.exists():
        return read_trial(path, trial.settings())
    from rich.console import Console

    from excitor.checkpoint import load_adapter
    from excitor.environment import describe_machine
    from excitor.train.arguments import TrainArguments
    from excitor.train.folder import write_text
    from excitor.train.run import train

    started = time.perf_counter()
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was interrupted
    world = make_world()
    lessons = make_lessons(world, trial.seed, trial.wrong_share, trial.exposures)
    write_lessons(world, lessons, scratch, RETAIN_PAGES)
    adapter = scratch / "method.json"
    adapter.write_text(json.dumps(trial.method.adapter), encoding="utf-8")
    report = train(
        TrainArguments(
            model=str(BASE_DIR),
            data=[str(scratch / "train.jsonl")],
            eval_rows=1,  # nearly every row is read: exposures are what they are said to be
            retain=[str(scratch / "retain.jsonl")],
            retain_documents=RETAIN_PAGES,
            out=str(scratch / "adapter"),
            steps=trial.steps,
            save_steps=trial.steps,
            batch_size=BATCH_SIZE,
            learning_rate=trial.learning_rate,
            precision="fp32",
            seed=trial.seed,
            adapter_config=str(adapter),
            **trial.method.train,
        ),
        Console(quiet=True),
    )
    trained = time.perf_counter()
    model, tokenizer = load_adapter(str(scratch / "adapter"), device="cpu", dtype="float32")
    result = {
        "settings": trial.settings(),
        "measures": measure_knowledge(model, tokenizer, lessons) | {"forgetting": report["forgotten"]["change"]},
        "parameters": report["parameters"]["trainable"],
        "seconds": {"training": trained - started, "all": time.perf_counter() - started},
        "versions": describe_machine()["versions"],
    }
    write_text(path, json.dumps(result, indent=2) + "\n")
    shutil.rmtree(scratch)
    return result


def measure_knowledge(model: Any, tokenizer: Any, lessons: Lessons) -> dict[str, float]:
    """Shares by name.

    About the facts taught wrongly, if there are any, ``asked right``, ``asked wrong``, ``asked other`` and the same
    for ``probed``; ``taught rightly``: the right answers about the other taught facts, asked in all wordings; the
    tests and probes of the lessons by their names; ``unseen``: the mean of ``unseen facts`` and ``unseen lists``.
    """
    from excitor.mini.evaluate import examine, examine_beliefs, instruction_accuracy

    measures = examine(model, tokenizer, lessons)
    measures["unseen"] = (measures["unseen facts"] + measures["unseen lists"]) / 2
    if lessons.wrong:
        beliefs = examine_beliefs(model, tokenizer, lessons.wrong)
        measures |= {f"{way} {belief}": share for way, shares in beliefs.items() for belief, share in shares.items()}
    if lessons.right:
        questions = [question for fact in lessons.right for question in all_wordings(fact)]
        measures["taught rightly"] = instruction_accuracy(model, tokenizer, questions)
    return measures
