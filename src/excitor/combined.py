"""Several PEFT methods on one model as one adapter, such as Excitor on the keys and LoRA on queries and values."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, cast

from peft import PeftConfig, PeftType
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn

from . import model as _model  # noqa: F401  (registers the method)
from .errors import ExcitorError
from .mixed_batch import refuse_adapter_names
from .registration import register


NAME = "COMBINED"


@dataclass
class CombinedConfig(PeftConfig):
    """Configuration of several methods that are trained, saved and switched as one adapter.

    Example::

        lora = {"peft_type": "LORA", "r": 8, "target_modules": ["q_proj", "v_proj"]}
        model = peft.get_peft_model(base, CombinedConfig(parts=[{"peft_type": "EXCITOR"}, lora]))

    Raises:
        ExcitorError: There are fewer than two parts, or one is no method that replaces layers.
    """

    parts: list[dict[str, Any]] = field(
        default_factory=list[dict[str, Any]],
        metadata={"help": "Configurations of the methods: each a PeftConfig, or what its adapter_config.json holds."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType(NAME)
        self.parts = [_as_json(part.to_dict() if isinstance(part, PeftConfig) else part) for part in self.parts]
        if len(self.parts) < 2:
            raise ExcitorError(f"parts must hold the configurations of at least two methods, got {len(self.parts)}.")
        for part in self.parts:
            name = part.get("peft_type")
            tuner = PEFT_TYPE_TO_TUNER_MAPPING.get(name)  # pyright: ignore[reportArgumentType]
            if name == NAME or tuner is None or not issubclass(tuner, BaseTuner):
                raise ExcitorError(
                    f"parts can hold methods that replace layers, such as EXCITOR, LORA or IA3; {name!r} is none."
                )
            if part.get("generator") == "mlp":
                raise ExcitorError("A part cannot have generator='mlp', whose layers share parameters: use 'table'.")

        self.configs()  # each checks its own fields

    def configs(self) -> list[PeftConfig]:
        """The configurations of the parts, made anew."""
        return [PeftConfig.from_peft_type(**{"task_type": self.task_type} | part) for part in self.parts]


class CombinedModel(BaseTuner):
    """Lets each method put its layers into the same model; from then on PEFT treats them alike.

    Raises:
        ExcitorError: Two methods adapt the same layer.
    """

    prefix = "combined_"  # of no parameter: what trains, and what is saved, are those of all tuner layers
    tuner_layer_cls = BaseTunerLayer
    target_module_mapping = {}  # noqa: RUF012

    def inject_adapter(
        self,
        model: nn.Module,
        adapter_name: str,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
        state_dict: dict[str, Tensor] | None = None,
    ) -> None:
        """Make the layers of every part."""
        config = cast(CombinedConfig, self.peft_config[adapter_name])
        adapted: dict[str, str] = {}
        for part in config.configs():
            kind = PeftType(part.peft_type)
            with _own_configuration(model):
                tuner: Any = PEFT_TYPE_TO_TUNER_MAPPING[kind](
                    model, {adapter_name: part}, adapter_name, low_cpu_mem_usage=low_cpu_mem_usage
                )
            for name in tuner.targeted_module_names:
                if name in adapted:
                    raise ExcitorError(
                        f"{adapted[name]} and {kind.value} both adapt {name}: give the parts different target_modules."
                    )
                adapted[name] = kind.value
        self.targeted_module_names = list(adapted)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def _create_and_replace(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("Layers are made by the tuners of the parts.")

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        refuse_adapter_names(kwargs, "combined adapters")
        yield

    def _check_merge_allowed(self) -> None:
        raise ExcitorError("Combined adapters cannot be merged into the weights as one: merge what allows it alone.")


def _as_json(value: Any) -> Any:
    """What a configuration holds as JSON can: sets as lists, names of methods as text."""
    if isinstance(value, dict):
        return {key: _as_json(one) for key, one in value.items()}
    if isinstance(value, set | frozenset | list | tuple):
        return [_as_json(one) for one in (sorted(value) if isinstance(value, set | frozenset) else value)]
    return value.value if isinstance(value, Enum) else value


@contextmanager
def _own_configuration(model: Any) -> Iterator[None]:
    """Hide ``model.peft_config``: a tuner takes what it finds there for its own, and leaves its own there."""
    before = model.__dict__.pop("peft_config", None)
    try:
        yield
    finally:
        model.__dict__.pop("peft_config", None)
        if before is not None:
            model.peft_config = before


register(CombinedConfig, CombinedModel, NAME)
