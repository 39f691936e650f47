"""One pass over a document in which each adapted attention runs twice on the same input: with its adapter and without.

Documents go one at a time, so there is no padding to leave out.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any, NamedTuple, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from excitor.errors import ExcitorError
from excitor.layer import ExcitorLayer, excitor_layers
from excitor.vision.model import ExcitorForConditionalGeneration


EAGER = "eager_attention_forward"  # what transformers calls it in the file of every model that has one


class Observation(NamedTuple):
    """What one adapted attention did with one document of M tokens.

    Attributes:
        name: Of the key projection in the model.
        layer: The key projection.
        hidden: Its input in the adapted model, ``(M, C)``.
        key: Its key where the term enters, without the term, ``(M, G * d)``.
        query_norms: Length of each query times what the scores are multiplied with, ``(H, M)``.
        before: Attention weights without the term of this layer, ``(H, M, M)``, rows over the attended tokens.
        after: With it.
    """

    name: str
    layer: ExcitorLayer
    hidden: Tensor
    key: Tensor
    query_norms: Tensor
    before: Tensor
    after: Tensor


class Scored(NamedTuple):
    """What eager attention makes its scores of, ``scale * query @ key``, rotated where the model rotates.

    ``query`` is ``(H, M, d)``, ``key`` is ``(K, M, d)`` with K key heads or, where a model has repeated them, H.
    """

    query: Tensor
    key: Tensor
    scale: float


def shift(before: Tensor, after: Tensor) -> Tensor:
    """Total variation between attention rows, half their L1 distance: ``(..., M)`` to ``(...)``, from 0 to 1."""
    return (after - before).abs().sum(-1) / 2


@torch.no_grad()
def observe(model: PeftModel, ids: Sequence[int], see: Callable[[Observation], None]) -> list[Tensor]:
    """Run the adapted model over one document and show every adapted attention to ``see``, from the bottom up.

    Args:
        model: With an Excitor adapter, in evaluation mode, with eager attention (:func:`measurable`).
        ids: The document, M token ids.
        see: Gets an observation for each adapted layer.

    Returns:
        Hidden states as transformers gives them: the embeddings, then the output of each layer, the last one
        normalised; each ``(M, C)``.
    """
    with ExitStack() as stack:
        scored = stack.enter_context(scored_attention())
        for name, layer in active_layers(model).items():
            rerun = _Rerun(name, layer, scored, see)
            stack.callback(layer.register_forward_pre_hook(rerun.read).remove)
            stack.callback(attention_of(model, name).register_forward_hook(rerun, with_kwargs=True).remove)
            stack.callback(setattr, layer.placement, "watch", None)
            layer.placement.watch = rerun.watch
        return hidden_states(model, ids)


@torch.no_grad()
def hidden_states(model: PeftModel, ids: Sequence[int]) -> list[Tensor]:
    """See :func:`observe`; with whatever adapter is active."""
    tokens = torch.tensor([ids], device=model.device)
    output = model(
        input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False, output_hidden_states=True
    )
    return [state[0] for state in output.hidden_states]


@contextmanager
def measurable(model: PeftModel) -> Iterator[str]:
    """Within it the model is in evaluation mode, its attention eager so that it gives its weights.

    Yields:
        The name of the active adapter.

    Raises:
        ExcitorError: No Excitor adapter, several active ones, or an attention whose queries cannot be seen.
    """
    for name in active_layers(model):
        attention = attention_of(model, name)
        if not hasattr(_file(attention), EAGER):
            raise ExcitorError(
                f"{name} cannot be measured: {type(attention).__name__} does not go through transformers' attention "
                "interface, where queries and weights are seen."
            )
    if len(model.active_adapters) != 1:
        raise ExcitorError(
            f"the active adapters are {', '.join(model.active_adapters) or 'none'}: "
            "activate the one to be measured with model.set_adapter(name)."
        )
    base: Any = model.get_base_model()
    if isinstance(base, ExcitorForConditionalGeneration):
        base = base.language_model  # the attention of the encoder is not looked at, and stays as it is
    training, implementation = model.training, base.config._attn_implementation
    base.set_attn_implementation("eager")
    model.eval()
    try:
        yield model.active_adapters[0]
    finally:
        base.set_attn_implementation(implementation)
        model.train(training)


def active_layers(model: PeftModel) -> dict[str, ExcitorLayer]:
    """The key projections that the active adapter acts on: others may belong to an adapter that is loaded beside it.

    Raises:
        ExcitorError: The model carries no Excitor adapter.
    """
    return {
        name: layer
        for name, layer in excitor_layers(model).items()
        if any(active in layer.excitor_generator for active in model.active_adapters)
    }


def attention_of(model: nn.Module, key_projection: str) -> Any:
    """The attention module that a key projection belongs to."""
    return model.get_submodule(key_projection.rpartition(".")[0])


class _Rerun:
    """Forward hook of an attention: runs it again with the adapter silent, on the same input."""

    def __init__(
        self, name: str, layer: ExcitorLayer, scored: dict[nn.Module, Scored], see: Callable[[Observation], None]
    ) -> None:
        self._name, self._layer, self._scored, self._see = name, layer, scored, see
        self._hidden: Tensor | None = None
        self._key: Tensor | None = None

    def read(self, layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        """Forward pre-hook of the projection."""
        self._hidden = args[0]

    def watch(self, before: Tensor, after: Tensor) -> None:
        """See :class:`excitor.placement.Placement`."""
        self._key = self._layer.placement.key(before)

    def __call__(self, attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        after = output[1][0].float()
        hidden, key = (cast(Tensor, tensor).flatten(end_dim=-2) for tensor in (self._hidden, self._key))
        query, _, scale = self._scored.pop(attention)
        norms = query.float().norm(dim=-1) * scale * _stretch(kwargs.get("position_embeddings"))
        with _silent(self._layer):
            _, before = attention.forward(*args, **kwargs)[:2]  # not through __call__, which would come here again
        self._scored.clear()
        self._see(Observation(self._name, self._layer, hidden, key, norms, before[0].float(), after))


@contextmanager
def scored_attention() -> Iterator[dict[nn.Module, Scored]]:
    """Within it eager attention leaves, by module, what it made its scores of last."""
    seen: dict[nn.Module, Scored] = {}

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, *args: Any, scaling: float | None = None, **kwargs: Any
    ) -> Any:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        seen[module] = Scored(query[0], key[0], scale)
        return getattr(_file(module), EAGER)(module, query, key, *args, scaling=scaling, **kwargs)

    ALL_ATTENTION_FUNCTIONS["eager"] = attend
    try:
        yield seen
    finally:
        del ALL_ATTENTION_FUNCTIONS["eager"]


def _file(attention: nn.Module) -> ModuleType:
    """The file of a model, where its eager attention stands."""
    return sys.modules[type(attention).__module__]


@contextmanager
def _silent(layer: ExcitorLayer) -> Iterator[None]:
    strengths = dict(layer.excitor_strength)
    layer.excitor_strength.update(dict.fromkeys(strengths, 0.0))
    try:
        yield
    finally:
        layer.excitor_strength.update(strengths)


def _stretch(position_embeddings: Any) -> float:
    """What a rotary embedding multiplies keys with: 1, but for variants for long contexts that scale cos and sin."""
    if position_embeddings is None:
        return 1.0
    if isinstance(position_embeddings, Tensor):  # cos + i sin
        return max(1.0, position_embeddings.abs().max().item())
    cos, sin = position_embeddings
    return max(1.0, (cos.float() ** 2 + sin.float() ** 2).max().item() ** 0.5)  # a part may not be rotated
