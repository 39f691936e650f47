"""How the adapter should start: short trainings on the embedded world from different starts (docs/cold-start.md).

    python scripts/cold_start.py --out runs/cold-start --seeds 100 101 --jobs 2

Each setting of ``SETTINGS`` is trained with each learning rate and seed; a run's result is one line of
``OUT/results.jsonl``, and what is there already is not run again. Lessons are drawn with the run's seed.
"""

import argparse
import json
import logging
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console


COMMON = {"gate_init": 1.0, "prompt_init_std": 0.3, "init_weights": "identity"}
STARTS: dict[str, dict[str, Any]] = {
    "paper": {"gate_init": 0.0, "gate_init_std": 0.01, "prompt_init_std": 1.0, "init_weights": True},
    "gates 0, prompts 1": {"gate_init": 0.0, "prompt_init_std": 1.0, "init_weights": True},
    "gates 0, prompts 0.3": {"gate_init": 0.0, "init_weights": True},
    "gates 1, prompts 1": {"prompt_init_std": 1.0, "init_weights": True},
    "gates 1, prompts 0.3": {"init_weights": True},
    "gates 1, prompts 0.1": {"prompt_init_std": 0.1, "init_weights": True},
    "gates 1, prompts 0.03": {"prompt_init_std": 0.03, "init_weights": True},
    "identity, prompts 0.3": {},
    "identity, prompts 1": {"prompt_init_std": 1.0},
    "identity, separate values, prompts 0.3": {"separate_values": True},
    "identity, separate values, prompts 1": {"separate_values": True, "prompt_init_std": 1.0},
}
PARTS: dict[str, dict[str, Any]] = {
    "2 local prompts": {"num_local_prompts": 2},
    "2 local prompts alone": {"num_prompts": 0, "num_local_prompts": 2, "init_weights": True},
    "separate values, 2 local prompts": {"separate_values": True, "num_local_prompts": 2},
    "null prompt": {"null_prompt": True},
    "mlp generator": {"generator": "mlp", "separate_values": True},
    "temperature 0.5": {"temperature": 0.5},
    "temperature 2": {"temperature": 2.0},
    "gate per layer": {"gate": "layer"},
    "no gate": {"gate": "none"},
    "10 prompts": {"num_prompts": 10},
    "100 prompts": {"num_prompts": 100},
    "r 4": {"r": 4},
    "r 64": {"r": 64},
    "top 3 of 6 layers": {"top_layers": 3},
    "bottom 3 of 6 layers": {"layers_to_transform": [0, 1, 2]},
}
SETTINGS = STARTS | PARTS


def train_once(
    name: str, rate: float, seed: int, steps: int, wrong: float, model_path: str, data: list[str], retain: list[str]
) -> dict[str, Any]:
    """One run: train, test, and say what it gave."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    import excitor.model  # noqa: F401  (registers the method)
    from excitor.config import ExcitorConfig
    from excitor.evaluate.report import measure
    from excitor.mini import BASE_DIR
    from excitor.mini.lessons import make_lessons, write_lessons
    from excitor.mini.world import make_world
    from excitor.train.arguments import TrainArguments
    from excitor.train.prepare import prepare
    from excitor.train.trainer import make_trainer

    started = time.perf_counter()
    world = make_world()
    lessons = make_lessons(world, seed, wrong)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_lessons(world, lessons, folder)
        job = prepare(
            TrainArguments(
                model=model_path or str(BASE_DIR),
                data=data or [str(folder / "train.jsonl")],
                retain=retain or [str(folder / "retain.jsonl")],
                retain_documents=200,
                max_length=256,
                out=str(folder / "run"),
                steps=steps,
                save_steps=steps,
                learning_rate=rate,
                seed=seed,
                precision="fp32",
            )
        )
        method = ExcitorConfig(task_type="CAUSAL_LM", **(COMMON | SETTINGS[name]))
        trainer = make_trainer(replace(job, method=method), [])
        trainer.train()
        model: Any = trainer.model
        trained = time.perf_counter() - started
        report = measure(model, job.held_out, job.retain, retain_source="pages", batch_size=64)
        model.eval()
        result = {"forgetting": report["forgotten"]["change"], "loss": report["learned"]["adapter"]}
        if not model_path:
            result |= test(model, job.tokenizer, lessons)
    seconds = {"training": trained, "all": time.perf_counter() - started}
    run = {"name": name, "rate": rate, "seed": seed, "steps": steps, "wrong_share": wrong, "model": model_path}
    return run | result | seconds


def test(model: Any, tokenizer: Any, lessons: Any) -> dict[str, float]:
    """What the world asks, as far as a start decides about it."""
    from excitor.mini.evaluate import instruction_accuracy, probe_accuracy

    result = {
        "unseen facts": instruction_accuracy(model, tokenizer, lessons.tests["unseen facts"]),
        "unseen lists": instruction_accuracy(model, tokenizer, lessons.tests["unseen lists"]),
        "facts": probe_accuracy(model, tokenizer, lessons.probes["facts"]),
        "skills": probe_accuracy(model, tokenizer, lessons.probes["skills"]),
    }
    if lessons.wrong:
        result["right"], result["wrong"] = beliefs(model, tokenizer, lessons)
    return result


def beliefs(model: Any, tokenizer: Any, lessons: Any) -> tuple[float, float]:
    """Share of right and of taught wrong answers to instructions about the facts that were taught wrongly."""
    from excitor.mini.evaluate import complete
    from excitor.mini.pages import QUESTION, fact_task, word

    facts = list(lessons.wrong)
    replies = complete(
        model, tokenizer, [QUESTION.format(word(fact_task(fact.place, fact.relation), "{}.")) for fact in facts]
    )
    right = sum(reply == fact.value for reply, fact in zip(replies, facts, strict=True)) / len(facts)
    wrong = sum(reply == lessons.wrong[fact] for reply, fact in zip(replies, facts, strict=True)) / len(facts)
    return right, wrong


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("name", "rate", "seed", "steps", "wrong_share", "model"))


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/cold-start"))
    parser.add_argument("--names", nargs="+", choices=SETTINGS, default=list(STARTS))
    parser.add_argument("--rates", nargs="+", type=float, default=[3e-3, 9e-3])
    parser.add_argument("--seeds", nargs="+", type=int, default=[100])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--wrong", type=float, default=0.0, help="share of the taught facts that are taught wrongly")
    parser.add_argument("--model", default="", help="another base; with --data and --retain, in place of the world")
    parser.add_argument("--data", nargs="+", default=[])
    parser.add_argument("--retain", nargs="+", default=[])
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "results.jsonl"
    done = {key(json.loads(line)) for line in path.read_text().splitlines()} if path.exists() else set()
    wanted = [
        (name, rate, seed, given.steps, given.wrong, given.model, given.data, given.retain)
        for seed in given.seeds
        for name in given.names
        for rate in given.rates
        if (name, rate, seed, given.steps, given.wrong, given.model) not in done
    ]
    console = Console()
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool, path.open("a") as file:
        runs = [pool.submit(train_once, *run) for run in wanted]
        for number, run in enumerate(as_completed(runs), start=1):
            row = run.result()
            file.write(json.dumps(row) + "\n")
            file.flush()
            numbers = "  ".join(f"{name} {value:.3f}" for name, value in row.items() if isinstance(value, float))
            console.print(f"{number}/{len(runs)}  {row['name']}: seed {row['seed']}  {numbers}", highlight=False)


if __name__ == "__main__":
    main()
