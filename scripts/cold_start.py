"""How the adapter should start: short trainings on the embedded world from different starts (docs/cold-start.md).

    python scripts/cold_start.py --out runs/cold-start --seeds 100 101 --jobs 2

Each setting of ``SETTINGS`` is trained with each learning rate and seed; a run's result is one line of
``OUT/results.jsonl``, and what is there already is not run again. Lessons are drawn with the run's seed.
"""

import argparse
import json
import logging
import time
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


def train_once(name: str, rate: float, seed: int, steps: int, wrong: float) -> dict[str, Any]:
    """One run: train, test, and say what it gave."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    from excitor.config import ExcitorConfig
    from excitor.evaluate.report import measure
    from excitor.mini import BASE_DIR
    from excitor.mini.evaluate import examine, examine_beliefs
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
                model=str(BASE_DIR),
                data=[str(folder / "train.jsonl")],
                retain=[str(folder / "retain.jsonl")],
                retain_documents=200,
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
        report = measure(model, job.held_out, job.retain, retain_source="pages", batch_size=64)
        model.eval()
        result = examine(model, job.tokenizer, lessons) | {"forgetting": report["forgotten"]["change"]}
        if lessons.wrong:
            asked = examine_beliefs(model, job.tokenizer, lessons.wrong)["asked"]
            result |= {"right": asked["right"], "wrong": asked["wrong"]}
    run = {"name": name, "rate": rate, "seed": seed, "steps": steps, "wrong_share": wrong}
    return run | result | {"seconds": time.perf_counter() - started}


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("name", "rate", "seed", "steps", "wrong_share"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/cold-start"))
    parser.add_argument("--names", nargs="+", choices=SETTINGS, default=list(STARTS))
    parser.add_argument("--rates", nargs="+", type=float, default=[3e-3, 9e-3])
    parser.add_argument("--seeds", nargs="+", type=int, default=[100])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--wrong", type=float, default=0.0, help="share of the taught facts that are taught wrongly")
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "results.jsonl"
    done = {key(json.loads(line)) for line in path.read_text().splitlines()} if path.exists() else set()
    wanted = [
        (name, rate, seed, given.steps, given.wrong)
        for seed in given.seeds
        for name in given.names
        for rate in given.rates
        if (name, rate, seed, given.steps, given.wrong) not in done
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
