"""How strongly adapters act: the strength that is set, and the gates that were learned."""

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from .errors import ExcitorError
from .layer import ExcitorLayer, excitor_layers
from .registration import AuxiliaryTrainingWrapper


def set_strength(model: nn.Module, strength: float, adapter_name: str | None = None) -> None:
    """Scale the gates of an adapter: 0 is the base model bit for bit, 1 the adapter as it was trained.

    Args:
        model: The adapted model.
        strength: The factor.
        adapter_name: Which adapter; all active ones when not given.

    Raises:
        ExcitorError: ``strength`` is negative or not finite, the model has no Excitor adapter (of this name), or the
            adapter changes the model in other ways as well (another method, ``modules_to_save``).
    """
    if not 0 <= strength < float("inf"):
        raise ExcitorError(
            f"strength must be a finite number of at least 0 (0 = base, 1 = as trained), got {strength}."
        )
    layers = excitor_layers(model).values()
    known = {name: None for layer in layers for name in layer.excitor_strength}
    if adapter_name is not None and adapter_name not in known:
        raise ExcitorError(f"there is no adapter {adapter_name!r} on this model; known are: {', '.join(known)}.")
    names = {name for layer in layers for name in (layer.active_adapters if adapter_name is None else [adapter_name])}
    _check_reach(model, names & known.keys())
    for layer in layers:
        for name in names & layer.excitor_strength.keys():
            layer.excitor_strength[name] = float(strength)


def _check_reach(model: nn.Module, adapter_names: set[str]) -> None:
    """Refuse a strength that would reach a part of an adapter alone: its 0 would not be the base."""
    for path, module in model.named_modules():
        if isinstance(module, BaseTunerLayer) and not isinstance(module, ExcitorLayer):
            own = {name for part in module.adapter_layer_names for name in getattr(module, part, ())}
        elif isinstance(module, AuxiliaryTrainingWrapper):
            own = module._adapters
        else:
            continue
        if reached := sorted(own & adapter_names):
            raise ExcitorError(
                f"strength scales Excitor's gates, and the adapter {reached[0]!r} changes {path} in another way as "
                "well: at 0 the model would not be its base. disable_adapter() gives the base."
            )


@torch.no_grad()
def gates(model: nn.Module, adapter_name: str | None = None) -> dict[str, Tensor]:
    """Gates ``(G,)`` of an adapter by layer name, in model order, as copies on the CPU in fp32.

    Args:
        model: The adapted model.
        adapter_name: Of which adapter; the active one when not given.

    Raises:
        ExcitorError: Several adapters are active and none is named, or the model has no Excitor adapter.
    """
    found: dict[str, Tensor] = {}
    for layer_name, layer in excitor_layers(model).items():
        active = layer.active_adapters if adapter_name is None else [adapter_name]
        names = [name for name in active if name in layer.excitor_processor]
        if len(names) > 1:
            raise ExcitorError(f"several adapters are active, each with gates: name one of {', '.join(names)}.")
        for name in names:
            found[layer_name] = layer.parts(name)[1].gates().detach().to("cpu", torch.float32, copy=True)
    return found
