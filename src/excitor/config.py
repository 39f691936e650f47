"""The configuration of the method: what PEFT stores in adapter_config.json."""

from dataclasses import dataclass, field, replace
from typing import Any

from peft import PeftConfig, PeftType

from .checks import check_choice as _check_choice
from .checks import check_count as _check_count
from .checks import check_number as _check_number
from .checks import check_pattern as _check_pattern
from .errors import ExcitorError
from .registration import get_pattern_key
from .rope import ROPE


GENERATORS = ("table", "mlp")
GATES = ("head", "layer", "none")
KEY_LAYOUTS = ("key", "concatenated", "interleaved")


@dataclass
class ExcitorConfig(PeftConfig):
    """Configuration of LLaMA-Excitor (arXiv 2404.00913) for PEFT.

    Every field is described in its metadata, ``dataclasses.fields(ExcitorConfig)``, and in docs/configuration.md. The
    defaults are the best setting found in docs/cold-start.md, and start without any effect; :meth:`paper` is the
    paper's own setting.

    Example::

        model = peft.get_peft_model(base, ExcitorConfig(r=16, num_prompts=30, top_layers=8))

    Raises:
        ExcitorError: A value is out of its range; the message names the field, the range and the value.
    """

    r: int = field(default=16, metadata={"help": "Rank of the excitor query, (x A) B."})
    num_prompts: int = field(
        default=30, metadata={"help": "Learnable prompts per layer that every token attends to, K in the paper."}
    )
    num_local_prompts: int = field(
        default=2,
        metadata={"help": "Further prompts per layer that each token makes from its own hidden state; paper: 0."},
    )
    top_layers: int | None = field(
        default=None,
        metadata={"help": "Adapt only the topmost N layers; all when not given. The paper uses 30 of 32."},
    )
    generator: str = field(
        default="table",
        metadata={"help": "What makes the prompts: table (free parameters, as in the paper) or mlp."},
    )
    separate_values: bool = field(
        default=False, metadata={"help": "Give prompts values of their own; the paper uses the keys as values."}
    )
    null_prompt: bool = field(
        default=False,
        metadata={"help": "One more prompt without a value, so that a token can choose to leave its key alone."},
    )
    temperature: float = field(
        default=1.0, metadata={"help": "Of the softmax over the prompts; higher spreads it over more of them."}
    )
    rope: str = field(
        default="before",
        metadata={
            "help": "Where terms meet keys that a model rotates: before, and are rotated too, or after, and are not."
        },
    )
    gate: str = field(
        default="head", metadata={"help": "Gates: head (one per key head, as in the paper), layer (one) or none."}
    )
    gate_init: float = field(default=1.0, metadata={"help": "Mean of the gates at the start; 0 in the paper."})
    gate_init_std: float = field(
        default=0.0, metadata={"help": "Standard deviation of the gates at the start; 0.01 in the paper."}
    )
    prompt_init_std: float = field(default=0.3, metadata={"help": "Standard deviation of the prompts at the start."})
    vision_width: int | None = field(
        default=None,
        metadata={
            "help": "Width of the features of a vision encoder, to make visual prompts from; none if not given."
        },
    )
    vision_rank: int | None = field(
        default=None,
        metadata={
            "help": "Rank of a trunk shared by a layer's key and value map of such features; full if not given."
        },
    )
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
    key_layout: str | None = field(
        default=None,
        metadata={
            "help": (
                "What the projections you name give out: key (nothing else), concatenated (all queries, all keys, all "
                "values) or interleaved (for each key head its queries, its key, its value). Known for supported "
                "models, and key elsewhere."
            )
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
    rank_pattern: dict[str, int] = field(
        default_factory=dict[str, int],
        metadata={"help": "Other ranks for some layers: endings of module names or regular expressions to r."},
    )
    num_prompts_pattern: dict[str, int] = field(
        default_factory=dict[str, int], metadata={"help": "Other numbers of prompts for some layers, likewise."}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Further modules to train in full and save with the adapter."}
    )
    trainable_token_indices: list[int] | dict[str, list[int]] | None = field(
        default=None,
        metadata={
            "help": "Tokens whose embeddings to train and save with the adapter; by embedding's name, if named."
        },
    )
    init_weights: bool | str = field(
        default="identity",
        metadata={
            "help": (
                "'identity' starts without any effect whatever the gates are (separate values at zero, else B at zero "
                "and prompts centred); True starts as the fields above say; False is for tests: everything random."
            )
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("EXCITOR")
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        if isinstance(self.exclude_modules, list):
            self.exclude_modules = set(self.exclude_modules)
        if self.target_modules == "all-linear":
            raise ExcitorError(
                "target_modules='all-linear' would treat every linear layer as a key projection, values among them: "
                "leave target_modules out, or name the layers that make the attention keys."
            )
        _check_count("r", self.r, 1)
        _check_count("num_local_prompts", self.num_local_prompts, 0)
        for name in ("vision_width", "vision_rank"):
            if getattr(self, name) is not None:
                _check_count(name, getattr(self, name), 1)
        # Local or visual prompts alone are a method too; no prompts at all are none.
        least = 0 if self.num_local_prompts or self.vision_width else 1
        _check_count("num_prompts", self.num_prompts, 0)
        if self.num_prompts < least:
            raise ExcitorError(
                "num_prompts=0 leaves nothing to attend to: give num_prompts or num_local_prompts, or, for an adapter "
                "of visual prompts alone, vision_width (the width of the encoder's features)."
            )
        _check_pattern("rank_pattern", self.rank_pattern, 1)
        _check_pattern("num_prompts_pattern", self.num_prompts_pattern, least)
        if self.num_prompts_pattern and self.generator == "mlp":
            raise ExcitorError(
                "num_prompts_pattern needs generator='table': an MLP makes the prompts of every layer from one set of "
                "seed embeddings, so all layers have the same number."
            )
        if self.top_layers is not None:
            _check_count("top_layers", self.top_layers, 1)
        if self.head_dim is not None:
            _check_count("head_dim", self.head_dim, 1)
        _check_choice("generator", self.generator, GENERATORS)
        _check_choice("rope", self.rope, ROPE)
        _check_choice("gate", self.gate, GATES)
        _check_choice("key_layout", self.key_layout, (None, *KEY_LAYOUTS))
        _check_choice("init_weights", self.init_weights, (True, False, "identity"))
        _check_number("temperature", self.temperature, above=0)
        _check_number("prompt_init_std", self.prompt_init_std, above=0)  # equal prompts would stay equal for ever
        _check_number("gate_init", self.gate_init)
        _check_number("gate_init_std", self.gate_init_std, at_least=0)
        self._check_identity()
        by_index = self.layers_to_transform is not None or self.top_layers is not None
        if isinstance(self.target_modules, str) and (by_index or self.layers_pattern):
            raise ExcitorError(
                "target_modules is a regular expression, which selects layers by itself: leave out top_layers, "
                "layers_to_transform and layers_pattern, or give target_modules as a list of names."
            )
        if self.layers_pattern and not by_index:
            raise ExcitorError(
                "layers_pattern says where layer indices are found, but there are none: "
                "set layers_to_transform or top_layers too."
            )

    def _check_identity(self) -> None:
        """Refuse starts from which nothing would ever move."""
        if self.init_weights != "identity":
            return
        if self.generator == "mlp" and not self.separate_values:
            raise ExcitorError(
                "init_weights='identity' with generator='mlp' needs separate_values=True, or init_weights=True."
            )
        if self.gate != "none" and self.gate_init == 0 and self.gate_init_std == 0:
            raise ExcitorError(
                "init_weights='identity' needs gates that are not zero, or nothing would ever learn: set gate_init "
                "to 1, or init_weights to True to start with closed gates."
            )

    def of_layer(self, module_name: str) -> "ExcitorConfig":
        """The configuration for one layer, ``rank_pattern`` and ``num_prompts_pattern`` resolved.

        Args:
            module_name: Of the key projection, as in ``model.named_modules()``. The first pattern that matches its
                end counts, as in LoRA.
        """
        changes = {
            name: pattern[key]
            for name, pattern in (("r", self.rank_pattern), ("num_prompts", self.num_prompts_pattern))
            if (key := get_pattern_key(list(pattern), module_name)) in pattern
        }
        return replace(self, **changes) if changes else self

    @classmethod
    def paper(cls, **changes: Any) -> "ExcitorConfig":
        """The paper's setting for LLaMA-7B: r = 16, K = 30, the topmost 30 layers, gates drawn from N(0, 1e-2).

        Args:
            **changes: Fields to set otherwise, e.g. ``top_layers`` for a model of fewer than 30 layers.
        """
        preset: dict[str, Any] = {
            "r": 16,
            "num_prompts": 30,
            "num_local_prompts": 0,
            "top_layers": 30,
            "gate_init": 0.0,
            "gate_init_std": 0.01,
            "prompt_init_std": 1.0,
            "init_weights": True,
        }
        return cls(**(preset | changes))
