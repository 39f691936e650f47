"""What a picture does to attention, and which of its features do it.

The term of a layer is a sum over prompts, and a score is linear in the key. So feature v of the picture adds
``c q_i . R_j(g w_jv P_v)`` to the score of query i on token j, with the model's own queries, rotation ``R_j`` and
scale ``c``. This is exact, and all that the picture does in the layer, but that the learnable prompts, where there are
some, have other weights once it is there.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from peft import PeftModel
from torch import Tensor, nn

from excitor.diagnostics.attention import Scored, active_layers, attention_of, measurable, scored_attention
from excitor.diagnostics.measure import check_documents
from excitor.diagnostics.moves import check_place
from excitor.diagnostics.shares import moved, shares_of_change
from excitor.errors import ExcitorError
from excitor.layer import ExcitorLayer
from excitor.visual import seeing


LINEAR = 1e-2  # attention that the parts predict may be as far from what was seen


class Terms(NamedTuple):
    """The term of one layer on M keys, strength left out, as far as a picture of V features changes it.

    The part of feature v is ``weights[..., v] * values[v]``. ``weights`` is ``(M, G, V)``; ``values``, the gates in
    them, ``(V, G, d)``; ``learnable``, ``(M, G, d)``, is what the other prompts add with the picture less what they
    add without it.
    """

    weights: Tensor
    values: Tensor
    learnable: Tensor


@dataclass(frozen=True)
class PictureShift:
    """Attention over one text of M tokens in one layer, with a picture and without; means over the attending tokens.

    Attributes:
        index: Of the layer in the model.
        before: Share of attention that goes to each token without the picture, by query head, ``(H, M)``; sums to 1.
        after: With it.
        parts: What each of V features, and last the learnable prompts, have of ``after - before``, ``(H, M, V + 1)``.
    """

    index: int
    before: Tensor
    after: Tensor
    parts: Tensor


@torch.no_grad()
def picture_shifts(
    model: PeftModel, ids: Sequence[int], features: Tensor, layer: int | None = None
) -> list[PictureShift]:
    """Run the adapted model over a text with a picture, and each adapted attention once more without.

    Both times an attention gets the same input, the hidden states of the model that sees the picture: a layer is not
    credited with what the layers below did.

    Args:
        model: With an Excitor adapter that has visual prompts; its base takes ``image_features``.
        ids: The text.
        features: Of the picture, ``(1, V, D)``.
        layer: Index of the only layer to look at; all adapted ones if not given.

    Returns:
        From the bottom up.

    Raises:
        ExcitorError: The adapter has no visual prompts or its strength is 0, several are active, the layer is not
            adapted, the text is empty or too long, or the scores of an attention are not linear in its keys.
    """
    check_place(model, layer, None)
    check_documents(model, [ids])
    check_sees(model)
    found: list[PictureShift] = []
    with measurable(model) as adapter, ExitStack() as stack:
        scored = stack.enter_context(scored_attention())
        for name, each in active_layers(model).items():
            attention = attention_of(model, name)
            if layer in (None, attention.layer_idx):
                look = _Look(each, adapter, scored, found)
                stack.callback(each.register_forward_pre_hook(look.read).remove)
                stack.callback(attention.register_forward_hook(look, with_kwargs=True).remove)
        tokens = torch.tensor([ids], device=model.device)
        model(input_ids=tokens, attention_mask=torch.ones_like(tokens), image_features=features, use_cache=False)
    return found


def check_sees(model: PeftModel) -> None:
    """Refuse a model whose attention no picture changes.

    Raises:
        ExcitorError: The active adapter has no visual prompts, or its strength is 0.
    """
    for layer in active_layers(model).values():
        for adapter in set(layer.excitor_generator) & set(model.active_adapters):
            if adapter not in layer.excitor_visual:
                raise ExcitorError(
                    f"the adapter {adapter!r} has no visual prompts, so a picture changes nothing: train one with "
                    "excitor train --vision-model."
                )
            if not layer.excitor_strength[adapter]:
                raise ExcitorError("at strength 0 a picture changes nothing: there is nothing to measure.")


def terms(layer: ExcitorLayer, adapter: str, hidden: Tensor) -> Terms:
    """Take the term of a layer apart, within :func:`excitor.visual.seeing` of one picture.

    Args:
        layer: The key projection.
        adapter: Which of its adapters; it has visual prompts.
        hidden: Input of the layer, ``(1, M, C)``.
    """
    generator, processor = layer.parts(adapter)
    visual = cast(Any, layer.visual_prompts(adapter, hidden))
    count, learnable = visual.values.shape[2], generator.num_prompts + generator.num_local_prompts
    weights = layer.prompt_weights(adapter, hidden)[0, ..., learnable : learnable + count]
    values = processor.gates()[:, None] * visual.values[0, 0]
    change = layer.term(adapter, hidden)
    with seeing(None):
        change = change - layer.term(adapter, hidden)
    change = change[0].unflatten(-1, (layer.num_heads, -1))
    return Terms(weights, values, change - torch.einsum("mgv,vgd->mgd", weights.to(values.dtype), values))


def score_parts(pull: Tensor, taken: Terms) -> Tensor:
    """What each feature, and last the learnable prompts, add to the scores of a query for each key head.

    Args:
        pull: The query at every key as the term meets it, ``c R_j^T q``, ``(N, G, d)``.
        taken: The terms of the first N keys, or of more.

    Returns:
        ``(G, N, V + 1)``.
    """
    keys = len(pull)
    features = torch.einsum("ngd,vgd->gnv", pull, taken.values) * taken.weights[:keys].transpose(0, 1)
    return torch.cat([features, torch.einsum("ngd,ngd->gn", pull, taken.learnable[:keys])[..., None]], -1)


class Pulls:
    """Queries as the term meets them: the gradient of the scores in the term, by the model's own code.

    The scores of a query are linear in the term wherever that enters (behind a norm, in a part of the key, before a
    rotation), so the gradient is that map itself.

    Args:
        scored: Of an attention that ran with gradients.
        term: The leaf that was the layer's term, ``(1, M, G * d)``.
        num_heads: Key heads, G.
    """

    def __init__(self, scored: Scored, term: Tensor, num_heads: int) -> None:
        self._scored, self._term, self._num_heads = scored, term, num_heads
        self.per_key_head = len(scored.query) // num_heads  # query heads

    def __call__(self, row: int, member: int) -> Tensor:
        """Of the query of token ``row`` in the query head ``member`` of each key head, ``(row + 1, G, d)``."""
        query, key, scale = self._scored
        heads = torch.arange(member, len(query), self.per_key_head, device=query.device)
        cotangent = torch.zeros_like(key)
        cotangent[heads * len(key) // len(query), : row + 1] = scale * query[heads, row, None]
        (pull,) = torch.autograd.grad(key, self._term, cotangent, retain_graph=True)
        return pull[0, : row + 1].unflatten(-1, (self._num_heads, -1))


class _Look:
    """Forward hook of an attention: runs it again without the picture, and shares out what that changes."""

    def __init__(
        self, layer: ExcitorLayer, adapter: str, scored: dict[nn.Module, Scored], found: list[PictureShift]
    ) -> None:
        self._layer, self._adapter, self._scored, self._found = layer, adapter, scored, found
        self._hidden = torch.empty(0)

    def read(self, layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        """Forward pre-hook of the projection."""
        self._hidden = args[0]

    def __call__(self, attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        hidden, after = self._hidden, output[1][0].float()
        taken = terms(self._layer, self._adapter, hidden)
        with seeing(None):
            before = attention.forward(*args, **kwargs)[1][0].float()  # not __call__, which would come here again
        with torch.enable_grad(), _leaf_term(self._layer, self._adapter, hidden) as term:
            attention.forward(*args, **kwargs)
        pulls = Pulls(self._scored.pop(attention), term, self._layer.num_heads)
        rows = len(after[0])
        parts = after.new_zeros(*after.shape[:2], taken.weights.shape[-1] + 1)
        for row in range(rows):
            for member in range(pulls.per_key_head):
                heads = slice(member, None, pulls.per_key_head)
                added = score_parts(pulls(row, member), taken).float()
                attended = before[heads, row, : row + 1]
                if (moved(attended, added.sum(-1)) - after[heads, row, : row + 1]).abs().max() > LINEAR:
                    raise ExcitorError(
                        f"{type(attention).__name__} of layer {attention.layer_idx} cannot be taken apart: its "
                        "weights are not a softmax of scores that are linear in the keys (they are capped, or it has "
                        "sinks)."
                    )
                parts[heads, : row + 1] += shares_of_change(attended, added)
        means = (before.mean(1), after.mean(1), parts / rows)
        self._found.append(PictureShift(attention.layer_idx, *(each.cpu() for each in means)))


@contextmanager
def _leaf_term(layer: ExcitorLayer, adapter: str, hidden: Tensor) -> Iterator[Tensor]:
    """Within it the term of a layer is a leaf with the same values, so that there are gradients in it."""
    leaf = layer.term(adapter, hidden).detach().requires_grad_()
    layer.term = lambda adapter_name, x: leaf  # in front of the method
    layer._needs_term = lambda adapter_name: True  # else the key may be made with its term in one go
    try:
        yield leaf
    finally:
        del layer.term, layer._needs_term
