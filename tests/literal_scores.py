"""The independent reference for whole models: ``g * S_e`` is added where attention multiplies queries by keys.

The frozen model runs with its own eager attention. Within an attention, the first product of two stacks of matrices is
the one of queries and keys, and it is intercepted: the product of the same queries with ``K_e`` is added to it,
multiplied by the gate. ``K_e`` is rotated by the rotary function of the model's own file, called a second time with
``K_e`` in the place of the key. So scales, caps, sinks, biases and masks are the model's, and neither keys nor values
are touched.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FunctionType
from typing import Any
from unittest import mock

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from excitor import ExcitorLayer
from excitor.functional import excitor_query, reconstructed_key
from excitor.layer import excitor_layers


PREFIX = "base_model.model."
ROTARY = ("apply_rotary_pos_emb", "apply_rotary_emb", "apply_multimodal_rotary_pos_emb")
PRODUCTS = (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__)


class Adapter:
    """The tensors of one layer's adapter; the model's own, not copies."""

    def __init__(self, layer: ExcitorLayer) -> None:
        self.generator, self.processor = layer.parts("default")
        self.gate = self.processor.gates()  # (G,)

    def extra_key(self, x: Tensor) -> Tensor:
        """``K_e`` without the gate: ``(B, M, C)`` to ``(B, M, G, d)``."""
        parts = self.processor
        query = excitor_query(x, parts.A, parts.B, len(self.gate))
        return reconstructed_key(query, self.generator(x @ parts.A), parts.null_bias, parts.temperature)


@contextmanager
def literal_scores(model: nn.Module, adapted: PeftModel, rotated: bool = True) -> Iterator[None]:
    """Within it the model computes the paper's formula.

    Args:
        model: A frozen model with eager attention.
        adapted: The same model with the adapter to compute it with.
        rotated: Whether ``K_e`` is rotated as the key is.
    """
    with ExitStack() as stack:
        for path, layer in excitor_layers(adapted).items():
            name, adapter = path.removeprefix(PREFIX), Adapter(layer)
            attention, latent = model.get_submodule(name.rpartition(".")[0]), name.endswith(".kv_b_proj")
            stack.enter_context(mock.patch.object(attention, "forward", _Forward(attention.forward, adapter, latent)))
            if latent:
                stack.callback(model.get_submodule(name).register_forward_pre_hook(_read_latent).remove)
            file = sys.modules[type(attention).__module__]
            for function in ROTARY if rotated else ():
                if isinstance(getattr(file, function, None), FunctionType):
                    stack.enter_context(mock.patch.object(file, function, _Rotary(getattr(file, function))))
        yield


class _Forward:
    """Forward of an attention with the extra scores in it."""

    def __init__(self, forward: Callable[..., Any], adapter: Adapter, latent: bool) -> None:
        self.forward, self.adapter, self.latent = forward, adapter, latent

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        scores = _Scores(self.adapter)
        if not self.latent:
            scores.read(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0])
        _running.append(scores)
        try:
            with scores:
                return self.forward(*args, **kwargs)
        finally:
            _running.pop()


class _Scores(TorchFunctionMode):
    """Adds the extra scores in one run of an attention."""

    extra: Tensor | None = None  # K_e, (B, G, M, d)
    rotated = added = False

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self.adapter = adapter

    def read(self, x: Tensor) -> None:
        self.extra = self.adapter.extra_key(x).transpose(1, 2)

    def rotate(self, rotary: Callable[[Tensor], Tensor], key: Tensor) -> None:
        """Rotate what the model rotates of the key, by its own function, in the order of dimensions of its ``key``."""
        size = key.shape[-1]
        if key.shape[1] == self.extra.shape[2]:  # tokens come first
            rotated = rotary(self.extra[..., :size].transpose(1, 2)).transpose(1, 2)
        else:
            copies = key.shape[1] // self.extra.shape[1]
            rotated = rotary(self.extra[..., :size].repeat_interleave(copies, dim=1))[:, ::copies]
        self.extra = torch.cat([rotated, self.extra[..., size:]], dim=-1)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self.added:
            return result
        if func in PRODUCTS and args[0].dim() > 2 and args[1].dim() > 2:
            self.added = True
            return result + self.extra_scores(*args)
        if func is torch.Tensor.baddbmm:
            self.added = True
            return result + kwargs["alpha"] * self.extra_scores(kwargs["batch1"], kwargs["batch2"])
        return result

    def extra_scores(self, query: Tensor, key: Tensor) -> Tensor:
        """``g * Q K_e^T``, for the two factors of ``Q K^T``; heads may be stacked with the batch."""
        batch, heads, _, size = self.extra.shape
        stacked = query.dim() == 3
        query = query.unflatten(0, (batch, -1)) if stacked else query
        extra = nn.functional.pad(self.extra, (0, key.shape[-2] - size))  # latent keys end in a rotated part
        extra = extra.to(query.dtype)
        copies = query.shape[1] // heads
        extra = extra.repeat_interleave(copies, dim=1).transpose(-1, -2)
        scores = self.adapter.gate.repeat_interleave(copies)[:, None, None] * (query @ extra)
        return scores.flatten(0, 1) if stacked else scores


class _Rotary:
    """The rotary function of a model; called with a key, it rotates ``K_e`` of the attention at work too."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.one_at_a_time = next(iter(inspect.signature(function).parameters)) == "tensor"  # GPT-J: the key, first

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        scores = _running[-1] if _running else None
        if scores is not None and scores.extra is not None and not scores.rotated:
            scores.rotated = True
            if self.one_at_a_time:
                scores.rotate(lambda extra: self.function(extra, *args[1:], **kwargs), args[0])
            else:
                scores.rotate(lambda extra: self.function(args[0], extra, *args[2:], **kwargs)[1], args[1])
        return self.function(*args, **kwargs)


def _read_latent(module: nn.Module, args: tuple[Tensor]) -> None:
    """What keys and values are made from; ``(B, 1, M, C)`` where it is kept as a head."""
    _running[-1].read(args[0].flatten(1, -2))


_running: list[_Scores] = []
