"""The configuration of the method: what PEFT stores in adapter_config.json."""

import math
from dataclasses import dataclass, field
from typing import Any

from peft import PeftConfig, PeftType

from .errors import ExcitorError


@dataclass
class ExcitorConfig(PeftConfig):
    """Configuration of LLaMA-Excitor (arXiv 2404.00913) for PEFT.

    Every field is described in its metadata, ``dataclasses.fields(ExcitorConfig)``, and in docs/configuration.md. The
    default adapter starts as an exact identity: all gates are zero.

    Example::

        model = peft.get_peft_model(base, ExcitorConfig(r=16, num_prompts=30, top_layers=8))

    Raises:
        ExcitorError: A value is out of its range; the message names the field, the range and the value.
    """

    r: int = field(default=16, metadata={"help": "Rank of the excitor query, (x A) B."})
    num_prompts: int = field(default=30, metadata={"help": "Learnable prompts per layer, K in the paper."})
    top_layers: int | None = field(
        default=None,
        metadata={"help": "Adapt only the topmost N layers; all when not given. The paper uses 30 of 32."},
    )
    gate_init_std: float = field(
        default=0.0,
        metadata={"help": "Standard deviation of the gates at the start; 0 makes the start an exact identity."},
    )
    prompt_init_std: float = field(default=1.0, metadata={"help": "Standard deviation of the prompts at the start."})
    head_dim: int | None = field(
        default=None,
        metadata={"help": "Size of a key head; read from the model's configuration when not given."},
    )
    target_modules: list[str] | set[str] | str | None = field(
        default=None,
        metadata={
            "help": "Key projections to adapt: name endings, or one regular expression. Known for supported models."
        },
    )
    exclude_modules: list[str] | set[str] | str | None = field(
        default=None, metadata={"help": "Modules to leave out: name endings, or one regular expression."}
    )
    layers_to_transform: list[int] | int | None = field(
        default=None, metadata={"help": "Layer indices to adapt, in place of top_layers."}
    )
    layers_pattern: list[str] | str | None = field(
        default=None, metadata={"help": "Name of the list of layers inside the model, where layer indices are used."}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Further modules to train in full and save with the adapter."}
    )
    init_weights: bool = field(
        default=True,
        metadata={"help": "False draws gates from N(0, 1), so that a fresh adapter visibly acts; meant for tests."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("EXCITOR")
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        if isinstance(self.exclude_modules, list):
            self.exclude_modules = set(self.exclude_modules)
        _check_positive("r", self.r)
        _check_positive("num_prompts", self.num_prompts)
        if self.top_layers is not None:
            _check_positive("top_layers", self.top_layers)
        if self.head_dim is not None:
            _check_positive("head_dim", self.head_dim)
        _check_std("gate_init_std", self.gate_init_std)
        _check_std("prompt_init_std", self.prompt_init_std)
        if isinstance(self.target_modules, str) and (self.layers_to_transform is not None or self.top_layers):
            raise ExcitorError(
                "target_modules is a regular expression, which selects layers by itself: "
                "leave out top_layers and layers_to_transform, or give target_modules as a list of names."
            )

    @classmethod
    def paper(cls, **changes: Any) -> "ExcitorConfig":
        """The paper's setting for LLaMA-7B: r = 16, K = 30, the topmost 30 layers, gates drawn from N(0, 1e-2).

        Args:
            **changes: Fields to set otherwise, e.g. ``top_layers`` for a model of fewer than 30 layers.
        """
        preset: dict[str, Any] = {"r": 16, "num_prompts": 30, "top_layers": 30, "gate_init_std": 0.01}
        return cls(**(preset | changes))


def _check_positive(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ExcitorError(f"{name} must be a whole number of at least 1, got {value!r}.")


def _check_std(name: str, value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not (0 <= value < math.inf):
        raise ExcitorError(f"{name} must be a finite number of at least 0, got {value!r}.")
