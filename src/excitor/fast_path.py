"""The fast path of an adapted layer, for decoding: one adapter at full strength, alone, without gradients.

A decoded token costs the term next to no arithmetic, and between two of them the weights of the whole model pass
through the processor's caches. What Python does on the way takes most of the time, so what can be found out once is
only compared here.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from .fold_cache import Kept
from .folded import Folded
from .implementation import READ, VARIABLE, backend, chosen
from .precision import autocast_dtype
from .recompute import Backend, run


if TYPE_CHECKING:
    from .layer import ExcitorLayer


Watched = tuple[dict[str, Any], str, Any]  # a dictionary, a name and what is under it; None stands for nothing too


class Conditions(NamedTuple):
    """What has to stay as it is: variables of the layer, its active adapters, entries elsewhere, and parameters.

    It does not hold the layer's variables themselves: the layer would hold itself, and its memory would not be given
    back at once.
    """

    state: dict[str, Any]
    active: list[str]
    watched: list[Watched]
    kept: Kept

    def hold(self, now: dict[str, Any]) -> bool:
        """Whether it is, ``now`` being the layer's variables."""
        return (
            all(now[key] is value for key, value in self.state.items())
            and now["_active_adapter"] == self.active  # the list that PEFT was given, which others may change
            and all(owner.get(key) is value for owner, key, value in self.watched)
            and self.kept.is_fresh()
        )


class FastPath(NamedTuple):
    """The conditions, and what gives the key with the term under them.

    ``key`` takes ``(..., C)`` and ``vars(layer)``; it returns ``(..., G * d)``, or None where a condition does not
    hold or the input is nothing for it.
    """

    conditions: Conditions
    key: Callable[[Tensor, dict[str, Any]], Tensor | None]


def fast_path(layer: "ExcitorLayer", name: str, kept: Kept, dtype: torch.dtype) -> FastPath:
    """The fast path of a layer as it is.

    Args:
        layer: At work with this adapter alone, whose term goes into the output of the projection.
        name: The adapter.
        kept: What it folds to.
        dtype: Of the keys.

    Raises:
        ExcitorError: The chosen implementation cannot run.
    """
    base, a = cast(nn.Module, layer._modules["base_layer"]), layer.parts(name)[1].A.detach()
    # Copies of the layer for other devices (nn.DataParallel) share this, and have modules of their own.
    state = {key: vars(layer)[key] for key in ("_modules", "_disable_adapters", "excitor_strength")}
    conditions = Conditions(state, [name], _watched(layer, name, kept), kept)
    behind = backend(kept.folded, dtype)
    if chosen() == "cpp":
        from .kernels.decode import decoder, decodes

        if decodes(base, kept):
            return FastPath(conditions, decoder(conditions, base, a))
    return FastPath(conditions, functools.partial(_key, conditions, base, a, kept.folded, behind))


def _key(
    conditions: Conditions, base: nn.Module, a: Tensor, folded: Folded, behind: Backend, x: Tensor, now: dict[str, Any]
) -> Tensor | None:
    if torch.is_grad_enabled() or autocast_dtype(a.device) is not None or not conditions.hold(now):
        return None
    return run(x, a, folded, base(x), a.dtype, behind)[0]


def _watched(layer: "ExcitorLayer", name: str, kept: Kept) -> list[Watched]:
    """What else has to stay as it is, the values of the parameters apart."""
    modules = cast(dict[str, Any], layer._modules)
    base = modules["base_layer"]
    parts = {part: modules[part]._modules for part in ("excitor_generator", "excitor_processor")}
    names = [(part[name]._parameters, key) for part in parts.values() for key in part[name]._parameters]
    return [
        *((modules, key, modules[key]) for key in ("base_layer", *parts)),
        *((part, name, part[name]) for part in parts.values()),
        # Those that it was made of, which another thread may have replaced meanwhile.
        *((*named, parameter) for named, parameter in zip(names, kept.held, strict=True)),
        *((base._parameters, *item) for item in base._parameters.items()),
        (vars(base), "forward", vars(base).get("forward")),
        (layer.excitor_strength, name, layer.excitor_strength[name]),
        (layer.excitor_unrotated, name, None),
        (vars(layer.placement), "watch", None),
        (READ, VARIABLE, chosen()),
    ]
