"""Bottleneck adapters as a PEFT method: a small network behind each sublayer (Houlsby) or behind the MLP (Pfeiffer).

The library that has them, ``adapters``, does not run beside transformers 5, and PEFT has none.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from peft import PeftConfig, PeftType
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn
from transformers.activations import ACT2FN

from .checks import check_choice, check_count, check_pattern
from .errors import ExcitorError
from .layer import linear_sizes
from .mixed_batch import refuse_adapter_names
from .registration import get_pattern_key, register


NAME = "BOTTLENECK"
NON_LINEARITIES = ("relu", "gelu", "silu", "tanh")
NO_MERGE = "Bottleneck adapters cannot be merged into the weights: they are not linear. Keep them next to the model."


@dataclass
class BottleneckConfig(PeftConfig):
    """Configuration of bottleneck adapters.

    Houlsby et al., 2019 (arXiv 1902.00751, section 2.1) put one behind the projection that ends attention and one
    behind that which ends the MLP; Pfeiffer et al., 2021 (arXiv 2005.00247) only the second. Here each adapts what a
    sublayer gives out, before the residual stream is added, as in the former. Norms, which stand behind sublayers in
    the models of both papers and before them in today's, are neither moved nor trained.

    Example::

        model = peft.get_peft_model(base, BottleneckConfig(target_modules=["o_proj", "down_proj"]))

    Raises:
        ExcitorError: A value is out of its range.
    """

    bottleneck_size: int = field(default=64, metadata={"help": "Width of the hidden layer of each adapter."})
    bottleneck_size_pattern: dict[str, int] = field(
        default_factory=dict[str, int],
        metadata={"help": "Other widths for some layers: endings of module names or regular expressions to widths."},
    )
    non_linearity: str = field(default="relu", metadata={"help": f"One of {', '.join(NON_LINEARITIES)}."})
    target_modules: list[str] | set[str] | str | None = field(
        default=None,
        metadata={
            "help": (
                "The linear layers behind which adapters go, by name endings or as one regular expression: in a LLaMA "
                "o_proj and down_proj for Houlsby's, down_proj for Pfeiffer's."
            )
        },
    )
    exclude_modules: list[str] | set[str] | str | None = field(
        default=None, metadata={"help": "Modules to leave out: name endings, or one regular expression."}
    )
    layers_to_transform: list[int] | int | None = field(
        default=None, metadata={"help": "Layer indices to adapt; all when not given."}
    )
    layers_pattern: list[str] | str | None = field(
        default=None, metadata={"help": "Name of the list of layers inside the model, where layer indices are used."}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Further modules to train in full and save with the adapter."}
    )
    init_weights: bool = field(
        default=True,
        metadata={"help": "Start without any effect: the second layer is zero. False is for tests: all is random."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType(NAME)
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        if isinstance(self.exclude_modules, list):
            self.exclude_modules = set(self.exclude_modules)
        check_count("bottleneck_size", self.bottleneck_size, 1)
        check_pattern("bottleneck_size_pattern", self.bottleneck_size_pattern, 1)
        check_choice("non_linearity", self.non_linearity, NON_LINEARITIES)
        check_choice("init_weights", self.init_weights, (True, False))


class BottleneckLayer(BaseTunerLayer, nn.Module):
    """A frozen linear layer and the adapters behind it: ``h + scaling * (f(h W_down + b_down) W_up + b_up)``.

    Args:
        base_layer: Gives out ``h``, ``(..., C)``.
    """

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ("bottleneck_non_linearity", "scaling")

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.in_features, self.out_features = cast(tuple[int, int], linear_sizes(self.get_base_layer()))
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.bottleneck_non_linearity = nn.ModuleDict()
        self.scaling: dict[str, float] = {}  # 1 as trained; called as LoRA's is
        self._disable_adapters = False
        self.merged_adapters = []  # always empty: PEFT asks for it

    def update_layer(self, adapter_name: str, config: BottleneckConfig, size: int) -> None:
        """Create the parameters of a new adapter of the width ``size``."""
        down, up = nn.Linear(self.out_features, size), nn.Linear(size, self.out_features)
        nn.init.zeros_(down.bias)
        if config.init_weights:
            nn.init.zeros_(up.weight)
            nn.init.zeros_(up.bias)
        self.bottleneck_down[adapter_name] = down
        self.bottleneck_up[adapter_name] = up
        self.bottleneck_non_linearity[adapter_name] = ACT2FN[config.non_linearity]
        self.scaling[adapter_name] = 1.0
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Output of the base layer for ``(..., C_in)``, in its dtype, with the adapters' added; several add up."""
        output = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return output
        added = [self._added(name, output) for name in self.active_adapters if self.scaling.get(name)]
        for one in added:
            output = output + one.to(output.dtype)
        return output

    def _added(self, name: str, output: Tensor) -> Tensor:
        down, up = self.bottleneck_down[name], self.bottleneck_up[name]
        hidden = self.bottleneck_non_linearity[name](down(output.to(cast(Tensor, down.weight).dtype)))
        added = up(hidden)
        return added if self.scaling[name] == 1 else self.scaling[name] * added

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Raise: the method has no merged form."""
        raise ExcitorError(NO_MERGE)

    def __repr__(self) -> str:
        return "bottleneck." + super().__repr__()


class BottleneckModel(BaseTuner):
    """Puts adapters behind the linear layers that the configuration names.

    Raises:
        ExcitorError: It names none, or a module that is no linear layer.
    """

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
    target_module_mapping = {}  # noqa: RUF012

    def _prepare_adapter_config(self, peft_config: BottleneckConfig, model_config: dict[str, Any]) -> BottleneckConfig:
        if not peft_config.target_modules:
            raise ExcitorError(
                "target_modules must name the linear layers behind which adapters go: in a LLaMA "
                "['o_proj', 'down_proj'] for Houlsby's adapters, ['down_proj'] for Pfeiffer's."
            )
        return peft_config

    def _create_and_replace(
        self,
        peft_config: BottleneckConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        pattern = peft_config.bottleneck_size_pattern
        size = pattern.get(get_pattern_key(list(pattern), current_key), peft_config.bottleneck_size)
        if isinstance(target, BottleneckLayer):
            target.update_layer(adapter_name, peft_config, size)
            return
        linear = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        if linear_sizes(linear) is None:
            raise ExcitorError(
                f"{current_key} is a {type(linear).__name__}, not a linear layer (a module with in_features and "
                "out_features): target_modules must name the layers that attention and the MLP end with."
            )
        layer = BottleneckLayer(target)
        layer.update_layer(adapter_name, peft_config, size)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)  # a further adapter does not train before it is activated
        self._replace_module(parent, target_name, layer, target)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        refuse_adapter_names(kwargs, "bottleneck adapters")
        yield

    def _check_merge_allowed(self) -> None:
        raise ExcitorError(NO_MERGE)


register(BottleneckConfig, BottleneckModel, NAME)
