"""The file of a run. It contains the schema of the result files of PEFT's method comparison, so that both can be read
by the same tools; what is beyond it stands in ``settings``, ``measures``, ``curve`` and ``costs``.
"""

import json
import platform
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from excitor.compare.watch import learned_and_forgotten
from excitor.environment import describe_machine
from excitor.train.prepare import Job


if TYPE_CHECKING:
    from excitor.compare.run import Run

SCHEMA = 1
PACKAGES = ("transformers", "peft", "datasets", "bitsandbytes", "torch", "trl", "accelerate", "excitor")
CURVE = ("answer_loss", "gain", "forgetting", "kl", "flipped")


@dataclass(frozen=True)
class Outcome:
    """What a run gave; everything is empty for one that failed.

    Attributes:
        measures: by name, see :mod:`excitor.compare.measures`.
        report: of the training.
        strengths: points of :func:`excitor.compare.strength.strength_curve`; None where there is no strength.
        steps: lines of :class:`excitor.compare.watch.Watch`.
        losses: training loss, step by step.
        file_size: bytes of the adapter's weights.
        saved_for_backward: bytes.
        decode_speed: new tokens a second.
        total: parameters of a base that was not trained.
        error: why it failed.
        diverged: whether that was for numbers that are not finite.
    """

    measures: dict[str, float] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    strengths: list[dict[str, float]] | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    file_size: int = 0
    saved_for_backward: int | None = None
    decode_speed: float | None = None
    total: int = 0
    error: str = ""
    diverged: bool = False


def record(run: "Run", job: Job, outcome: Outcome, *, created: str, seconds: float) -> dict[str, Any]:
    """Everything that is known of a run, as JSON holds it.

    Args:
        run: What was run.
        job: How it was prepared.
        outcome: What it gave.
        created: When it began, ISO 8601.
        seconds: What it took altogether.

    Returns:
        ``run_info``, ``train_info`` and ``meta_info`` as in PEFT's method comparison (``accelerator_memory_*`` is that
        of the process where there is no accelerator), and ``schema``, ``settings``, ``status`` ("success" or
        "failed"), ``measures``, ``curve`` (points of ``step`` and measures), ``strength_curve`` (of ``strength``
        and measures; None where none were asked for, or the method has no strength), ``costs``, ``environment``.
    """
    arguments, report = job.arguments, outcome.report
    trained = sum(line["seconds"] for line in outcome.steps)
    tokens = outcome.steps[-1]["tokens"] if outcome.steps else 0
    held = [line["memory"] for line in outcome.steps] or [0]
    parameters = report.get("parameters", {"trainable": 0, "total": outcome.total})
    curve = [{"step": line["step"]} | {name: line[name] for name in CURVE} for line in outcome.steps if "gain" in line]
    if report:
        curve.append({"step": run.steps} | learned_and_forgotten(report))
    status = "failed" if outcome.error else "success"
    return {
        "schema": SCHEMA,
        "settings": run.settings(),
        "status": status,
        "measures": outcome.measures,
        "curve": curve,
        "strength_curve": outcome.strengths,
        "costs": {
            "parameters": parameters["trainable"],
            "file_bytes": outcome.file_size,
            "tokens_per_second": tokens / trained if trained else None,
            "peak_memory_bytes": max(held),
            "saved_for_backward_bytes": outcome.saved_for_backward,
            "decode_tokens_per_second": outcome.decode_speed,
            "train_seconds": trained,
            "train_tokens": tokens,
            "non_finite": int(outcome.diverged),
        },
        "environment": describe_machine() | {"rows_sha256": job.environment["rows_sha256"]},
        "run_info": {
            "created_at": created,
            "total_time": seconds,
            "experiment_name": run.experiment.name,
            "peft_branch": "main",
            "train_config": _train_config(run, job),
            "peft_config": _peft_config(run, job) if run.experiment.adapter else None,
            "error_msg": outcome.error,
        },
        "train_info": {
            "accelerator_memory_reserved_avg": int(np.mean(held)),
            "accelerator_memory_max": int(max(held)),
            "accelerator_memory_reserved_99th": int(np.percentile(held, 99)),
            "train_time": trained,
            "file_size": outcome.file_size,
            "num_trainable_params": parameters["trainable"],
            "num_total_params": parameters["total"],
            "status": status,
            "metrics": _metrics(run, outcome, arguments.batch_size * arguments.gradient_accumulation),
        },
        "meta_info": {
            "model_info": {"sha": None, "created_at": None},
            "dataset_info": {},
            "package_info": _packages(),
            "system_info": _system(),
            "pytorch_info": torch.__config__.show(),
        },
    }


def _metrics(run: "Run", outcome: Outcome, batch: int) -> list[dict[str, Any]]:
    """An entry for each point of the curve and one for the end, named as in PEFT's; no accuracy on the way."""
    entries, begin, elapsed = [], 0, 0.0
    for end in run.curve() if outcome.steps else ():
        lines = outcome.steps[begin:end]
        seconds, spent = sum(line["seconds"] for line in lines), lines[-1].get("eval_seconds", 0.0)
        elapsed += seconds + spent
        before = outcome.steps[begin - 1]["tokens"] if begin else 0
        allocated = [line["allocated"] for line in lines if line["allocated"] is not None]
        entries.append(
            {
                "step": end,
                "valid accuracy": None,
                "train loss": float(np.mean(outcome.losses[begin:end])),
                "train samples": end * batch,
                "train time": seconds,
                "eval time": spent,
                "tokens / sec": (lines[-1]["tokens"] - before) / seconds,
                "mem allocated avg": float(np.mean(allocated)) if allocated else None,
                "mem reserved avg": float(np.mean([line["memory"] for line in lines])),
                "elapsed time": elapsed,
            }
        )
        begin = end
    if entries:
        accuracies = (outcome.measures.get(name) for name in ("exact match", "number match", "unseen"))
        entries.append(
            {
                "step": entries[-1]["step"],
                "test accuracy": next((value for value in accuracies if value is not None), None),
                "train loss": entries[-1]["train loss"],
                "train samples": entries[-1]["train samples"],
                "train total tokens": outcome.steps[-1]["tokens"],
                "forgetting": outcome.measures["forgetting"],
            }
        )
    return entries


def _train_config(run: "Run", job: Job) -> dict[str, Any]:
    """The settings of the training under the names that PEFT's files have."""
    arguments = job.arguments
    return {
        "model_id": run.settings()["material"]["model"],
        "dtype": {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[arguments.precision],
        "max_seq_length": arguments.max_length,
        "batch_size": arguments.batch_size,
        "batch_size_eval": arguments.batch_size,
        "max_steps": run.steps,
        "eval_steps": None,
        "compile": False,
        "use_gc": arguments.gradient_checkpointing,
        "query_template": job.encoded.template,
        "seed": run.seed,
        "grad_norm_clip": 1.0,
        "optimizer_type": "AdamW",
        "optimizer_kwargs": {"lr": run.learning_rate, "weight_decay": arguments.weight_decay},
        "lr_scheduler": arguments.scheduler,
        "use_amp": arguments.precision != "fp32",
        "autocast_adapter_dtype": True,
        "generation_kwargs": {},
        "attn_implementation": None,
        "init_kv_cache_prefix": None,
    }


def _peft_config(run: "Run", job: Job) -> dict[str, Any]:
    """Of the method; the base by its name, not by where it lay on this machine."""
    values = job.method.to_dict() | {"base_model_name_or_path": run.settings()["material"]["model"]}
    return json.loads(json.dumps(values, default=lambda one: sorted(one) if isinstance(one, set) else str(one)))


def _packages() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[f"{name}-version"] = version(name)
        except PackageNotFoundError:
            found[f"{name}-version"] = None
        found[f"{name}-commit-hash"] = None
    return found


def _system() -> dict[str, str | None]:
    names = ("system", "release", "version", "machine", "processor")
    accelerator = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {name: getattr(platform.uname(), name) for name in names} | {"accelerator": accelerator}
