"""The fast path of an adapted layer, for decoding: one adapter at full strength, alone, without gradients.

A decoded token costs the term next to no arithmetic, and between two of them the weights of the whole model pass
through the processor's caches. What Python does on the way takes most of the time, so what can be found out once is
only compared here.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from .fold_cache import Kept
from .implementation import backend, chosen
from .recompute import run


if TYPE_CHECKING:
    from .layer import ExcitorLayer


FastPath = Callable[[Tensor, dict[str, Any]], Tensor | None]
Watched = tuple[dict[str, Any], str, Any]  # a dictionary, a name and what is under it; None stands for nothing too


def fast_path(layer: "ExcitorLayer", name: str, kept: Kept, dtype: torch.dtype) -> FastPath:
    """What gives the key of ``(..., C)`` with the term of an adapter, or None where anything is not as it was.

    Beside ``(..., C)`` it takes ``vars(layer)``: if it held them, the layer would hold itself, and its memory would
    not be given back at once.

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
    state = {key: vars(layer)[key] for key in ("_modules", "_active_adapter", "_disable_adapters")}
    watched, behind = _watched(layer, name, kept), backend(kept.folded, dtype)
    if chosen() == "cpp":
        from .kernels.decode import decodes, make_decoder

        if decodes(base, kept):
            return make_decoder(state, watched, base, kept, a)

    def plain(x: Tensor, now: dict[str, Any]) -> Tensor | None:
        if any(now[key] is not value for key, value in state.items()):
            return None
        if any(owner.get(key) is not value for owner, key, value in watched) or not kept.is_fresh():
            return None
        if torch.is_grad_enabled() or torch.is_autocast_enabled(device) or chosen() != choice:
            return None
        return run(x, a, kept.folded, base(x), a.dtype, behind)[0]

    choice, device = chosen(), a.device.type
    return plain


def _watched(layer: "ExcitorLayer", name: str, kept: Kept) -> list[Watched]:
    """What has to stay as it is, the values of the parameters apart."""
    modules = cast(dict[str, Any], layer._modules)
    parts = [modules[part]._modules for part in ("excitor_generator", "excitor_processor")]
    names = [(part[name]._parameters, key) for part in parts for key in part[name]._parameters]
    return [
        (modules, "base_layer", modules["base_layer"]),
        (vars(layer.placement), "watch", None),
        (layer.excitor_strength, name, layer.excitor_strength[name]),
        *((part, name, part[name]) for part in parts),
        # Those that it was made of, which another thread may have replaced meanwhile.
        *((*named, parameter) for named, parameter in zip(names, kept.held, strict=True)),
    ]
