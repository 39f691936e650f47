"""How the adapter should start: short trainings from different starts, on the embedded world or on a model and data
of one's own (docs/cold-start.md).

    python scripts/cold_start.py --out runs/cold-start --seeds 100 101 --jobs 2
    python scripts/cold_start.py --out runs/cold-start --model MODEL --data rows.json --retain text.txt

Each setting of ``SETTINGS`` is trained with each learning rate and seed; a run's result is one line of
``OUT/results.jsonl``, and what is there already is not run again. Lessons are drawn with the run's seed.
"""

import argparse
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import PeftModel

from trials import run_trials


COMMON = {"gate_init": 1.0, "prompt_init_std": 0.3, "init_weights": "identity", "num_local_prompts": 0}
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
    "1 local prompt": {"num_local_prompts": 1},
    "2 local prompts": {"num_local_prompts": 2},
    "4 local prompts": {"num_local_prompts": 4},
    "1 local prompt alone": {"num_prompts": 0, "num_local_prompts": 1},
    "2 local prompts alone": {"num_prompts": 0, "num_local_prompts": 2},
    "4 local prompts alone": {"num_prompts": 0, "num_local_prompts": 4},
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
# Learning rates of groups of parameters, relative to the run's, from the common start.
GROUPS: dict[str, dict[str, float]] = {
    "gates x 0.1": {"gate": 0.1},
    "gates x 10": {"gate": 10.0},
    "prompts x 0.3": {"prompts": 0.3},
    "prompts x 3": {"prompts": 3.0},
    "B x 3": {"B": 3.0},
    "A x 0.3": {"A": 0.3},
}
SETTINGS = STARTS | PARTS | {name: {} for name in GROUPS}


@dataclass(frozen=True)
class Material:
    """What is trained on and measured: files, or, without a model, the embedded world."""

    model: str = ""
    data: str = ""
    retain: str = ""
    max_length: int | None = None
    wrong_share: float = 0.0

    def describe(self) -> dict[str, Any]:
        """What tells its runs from others."""
        return {"model": Path(self.model).name, "wrong_share": self.wrong_share}


def train_once(material: Material, name: str, rate: float, seed: int, steps: int) -> dict[str, Any]:
    """One run: train, test, and say what it gave."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    from excitor.config import ExcitorConfig
    from excitor.evaluate.report import measure
    from excitor.mini import BASE_DIR
    from excitor.mini.lessons import make_lessons, write_lessons
    from excitor.mini.world import make_world
    from excitor.train.arguments import TrainArguments
    from excitor.train.prepare import prepare
    from excitor.train.trainer import make_trainer

    started = time.perf_counter()
    lessons = None if material.model else make_lessons(make_world(), seed, material.wrong_share)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if lessons:
            write_lessons(make_world(), lessons, folder)
        job = prepare(
            TrainArguments(
                model=material.model or str(BASE_DIR),
                data=[material.data or str(folder / "train.jsonl")],
                retain=[material.retain or str(folder / "retain.jsonl")],
                retain_documents=200,
                max_length=material.max_length,
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
        if name in GROUPS:
            trainer.optimizer = torch.optim.AdamW(groups(trainer.model, rate, GROUPS[name]), weight_decay=0.0)
        trainer.train()
        model: Any = trainer.model
        report = measure(model, job.held_out, job.retain, retain_source="pages", batch_size=64)
        model.eval()
        result = {"forgetting": report["forgotten"]["change"], "learned": report["learned"]["change"]}
        if lessons:
            result |= examine_world(model, job.tokenizer, lessons)
    return result | {"seconds": time.perf_counter() - started}


def groups(model: PeftModel, rate: float, factors: dict[str, float]) -> list[dict[str, Any]]:
    """The trainable parameters, each with its own learning rate: ``factors`` by the last part of their names."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return [{"params": [each], "lr": rate * factors.get(name.rsplit(".", 1)[-1], 1.0)} for name, each in named]


def examine_world(model: Any, tokenizer: Any, lessons: Any) -> dict[str, float]:
    """Tests and probes of the world, and the answers about facts taught wrongly if there are any."""
    from excitor.mini.evaluate import examine, examine_beliefs

    result = examine(model, tokenizer, lessons)
    if lessons.wrong:
        asked = examine_beliefs(model, tokenizer, lessons.wrong)["asked"]
        result |= {"right": asked["right"], "wrong": asked["wrong"]}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/cold-start"))
    parser.add_argument("--names", nargs="+", choices=SETTINGS, default=list(STARTS))
    parser.add_argument("--rates", nargs="+", type=float, default=[3e-3, 9e-3])
    parser.add_argument("--seeds", nargs="+", type=int, default=[100])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--wrong", type=float, default=0.0, help="share of the taught facts that are taught wrongly")
    parser.add_argument("--model", default="", help="a folder in the hub's format, in place of the embedded world")
    parser.add_argument("--data", default="", help="its instructions")
    parser.add_argument("--retain", default="", help="its text to measure forgetting on")
    parser.add_argument("--max-length", type=int)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    material = Material(given.model, given.data, given.retain, given.max_length, given.wrong)
    wanted = [
        {"material": material, "name": name, "rate": rate, "seed": seed, "steps": given.steps}
        for seed in given.seeds
        for name in given.names
        for rate in given.rates
    ]
    run_trials(train_once, wanted, given.out / "results.jsonl", given.jobs)


if __name__ == "__main__":
    main()
