"""One pass over a document in which each adapted attention runs twice on the same input: with its adapter and without.

Documents go one at a time, so there is no padding to leave out.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, cast

import torch
from peft import PeftModel
from torch import Tensor, nn

from excitor.errors import ExcitorError
from excitor.layer import ExcitorLayer, excitor_layers


class Observation(NamedTuple):
    """What one adapted attention did with one document of M tokens.

    Attributes:
        name: Of the key projection in the model.
        layer: The key projection.
        hidden: Its input in the adapted model, ``(M, C)``.
        query_norms: Length of each query times what the scores are multiplied with, ``(H, M)``.
        before: Attention weights without the term of this layer, ``(H, M, M)``, rows over the attended tokens.
        after: With it.
    """

    name: str
    layer: ExcitorLayer
    hidden: Tensor
    query_norms: Tensor
    before: Tensor
    after: Tensor


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
        for name, layer in active_layers(model).items():
            hook = _Rerun(name, layer, see)
            handle = attention_of(model, name).register_forward_hook(hook, with_kwargs=True)
            stack.callback(handle.remove)
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
        ExcitorError: No Excitor adapter, several active ones, or an attention without a ``q_proj``.
    """
    for name in active_layers(model):
        if not hasattr(attention_of(model, name), "q_proj"):
            raise ExcitorError(f"{name} cannot be measured: its attention has no q_proj to take the queries from.")
    if len(model.active_adapters) != 1:
        raise ExcitorError(
            f"the active adapters are {', '.join(model.active_adapters) or 'none'}: "
            "activate the one to be measured with model.set_adapter(name)."
        )
    base: Any = model.get_base_model()
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

    def __init__(self, name: str, layer: ExcitorLayer, see: Callable[[Observation], None]) -> None:
        self._name, self._layer, self._see = name, layer, see

    def __call__(self, attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        with _silent(self._layer):
            _, before = attention.forward(*args, **kwargs)  # not through __call__, which would come here again
        after = output[1][0].float()
        hidden = cast(Tensor, kwargs["hidden_states"] if "hidden_states" in kwargs else args[0])
        queries = attention.q_proj(hidden)[0].float().unflatten(-1, (after.shape[0], -1))
        norms = queries.norm(dim=-1).T * attention.scaling * _stretch(kwargs.get("position_embeddings"))
        self._see(Observation(self._name, self._layer, hidden[0], norms, before[0].float(), after))


@contextmanager
def _silent(layer: ExcitorLayer) -> Iterator[None]:
    strengths = dict(layer.excitor_strength)
    layer.excitor_strength.update(dict.fromkeys(strengths, 0.0))
    try:
        yield
    finally:
        layer.excitor_strength.update(strengths)


def _stretch(position_embeddings: tuple[Tensor, Tensor] | None) -> float:
    """What a rotary embedding multiplies scores with: 1, but for variants for long contexts that scale cos and sin."""
    if position_embeddings is None:
        return 1.0
    cos, sin = position_embeddings
    return max(1.0, (cos.float() ** 2 + sin.float() ** 2).max().item())  # a part of the head may not be rotated
