r"""What the preservation losses keep and cost, over seeds (docs/preservation.md).

    python scripts/preservation.py --out runs/preservation --seeds 0 1 2 --jobs 2
    python scripts/preservation.py --out runs/preservation --model MODEL --data rows.json --retain text.txt \
        --replay other.txt --max-length 256 --steps 100

Each setting is one ``excitor train``, on the embedded world or on a model and data of one's own; its line in
``OUT/results.jsonl`` says what was learned and forgotten, and what share of the time the losses took.
"""

import argparse
import json
import logging
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console

from trials import run_trials


OFF: dict[str, Any] = {}
SETTINGS: dict[str, dict[str, Any]] = {
    "off": OFF,
    "light": {"keep": "light"},
    "strong": {"keep": "strong"},
    "strong, every 4th step": {"keep": "strong", "replay_every": 4},
    "prompt KL alone": {"prompt_kl_weight": 1.0},
    "key drift": {"key_drift_weight": 1.0},
    "hidden drift": {"hidden_drift_weight": 1.0},
    "gates": {"gate_weight": 0.1},
    "bar 0.01": {"max_forgetting": 0.01},
    "bar 0.05": {"max_forgetting": 0.05},
    "bar 0.1": {"max_forgetting": 0.1},
}
METHODS: dict[str, dict[str, Any] | None] = {
    "excitor": None,
    "lora": {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
}


@dataclass(frozen=True)
class Material:
    """What is trained on and measured: files, or, without a model, the embedded world."""

    model: str = ""
    data: str = ""
    retain: str = ""
    replay: str = ""
    max_length: int | None = None

    def files(self) -> dict[str, Any]:
        """As the fields of ``TrainArguments``."""
        return {"model": self.model, "data": [self.data], "retain": [self.retain], "replay": [self.replay]}

    def describe(self) -> dict[str, Any]:
        """What tells its runs from others."""
        return {"model": Path(self.model).name}


def train_once(
    material: Material, name: str, method: str, text: str, rate: float, seed: int, steps: int
) -> dict[str, Any]:
    """One run of ``excitor train``; ``text`` is what is replayed: ``files``, or what the base writes (``own``)."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    from excitor.compare.material import World
    from excitor.train.arguments import TrainArguments
    from excitor.train.run import train

    started = time.perf_counter()
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files = material.files() if material.model else World().write(folder, seed)
        arguments = TrainArguments(
            model=files["model"],
            data=files["data"],
            retain=files["retain"],
            retain_documents=200,
            max_length=material.max_length,
            out=str(folder / "run"),
            steps=steps,
            save_steps=steps,
            learning_rate=rate,
            seed=seed,
            precision="fp32",
            **SETTINGS[name],
        )
        if text == "files" and arguments.weights().on_replay:
            arguments.replay = files["replay"]
        if (adapter := METHODS[method]) is not None:
            (folder / "method.json").write_text(json.dumps(adapter), encoding="utf-8")
            arguments.adapter_config = str(folder / "method.json")
        report = train(arguments, Console(quiet=True))
    forgotten, kept = report["forgotten"], report.get("preservation", {})
    result = {"learned": report["learned"]["change"], "forgetting": forgotten["change"], "kl": forgotten["kl"]}
    result |= {key: kept[key] for key in ("share", "reached", "kl_weight") if key in kept}
    return result | {"seconds": time.perf_counter() - started}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/preservation"))
    parser.add_argument("--names", nargs="+", choices=SETTINGS, default=["off", "light", "strong", "bar 0.01"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["excitor"])
    parser.add_argument("--texts", nargs="+", choices=("own", "files"), default=["own", "files"])
    parser.add_argument("--rate", type=float, required=True, help="learning rate")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--model", default="", help="a folder in the hub's format, in place of the embedded world")
    parser.add_argument("--data", default="", help="its instructions")
    parser.add_argument("--retain", default="", help="its text to measure forgetting on")
    parser.add_argument("--replay", default="", help="its other text, to replay")
    parser.add_argument("--max-length", type=int)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    material = Material(given.model, given.data, given.retain, given.replay, given.max_length)
    common = {"material": material, "rate": given.rate, "steps": given.steps}
    wanted = [
        common | {"name": name, "method": method, "text": text, "seed": seed}
        for seed in given.seeds
        for method in given.methods
        for name in given.names
        for text in (given.texts if name != "off" else ["own"])
    ]
    run_trials(train_once, wanted, given.out / "results.jsonl", given.jobs)


if __name__ == "__main__":
    main()
