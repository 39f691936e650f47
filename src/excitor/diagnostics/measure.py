"""What an adapter does to the attention, the keys and the hidden states of its model, on given text."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor

from excitor.diagnostics.attention import (
    Observation,
    active_layers,
    attention_of,
    hidden_states,
    measurable,
    observe,
    shift,
)
from excitor.diagnostics.bound import reach, shift_bound
from excitor.errors import ExcitorError


PEFT_PREFIX = "base_model.model."  # layers are named as in the base


@dataclass(frozen=True)
class LayerMeasure:
    """What the adapter does in one layer; docs/diagnostics.md has the formulas.

    Attributes:
        name: Of the key projection in the base model.
        index: Of the layer in the model.
        shift: By query head, how much attention moves: total variation, mean over tokens.
        shift_max: By query head, of the token where it moves most.
        bound: By query head, more than any token's attention can move.
        gates: By key head, times the strength.
        prompts: Number of the global ones.
        entropy: By key head, of a token's weights over the prompts, mean over tokens, in nats.
        max_entropy: Of equal weights: log of the number of all prompts, local ones and the null prompt among them.
        top_share: By key head, weight of the global prompt that has most of it, over all tokens; 0 without any.
        local_share: By key head, weight of all local prompts together; None where there are none.
        null_share: By key head, weight of the null prompt; None where there is none.
        key_drift: By key head, length of the term over length of the key, mean over tokens.
    """

    name: str
    index: int
    shift: list[float]
    shift_max: list[float]
    bound: list[float]
    gates: list[float]
    prompts: int
    entropy: list[float]
    max_entropy: float
    top_share: list[float]
    local_share: list[float] | None
    null_share: list[float] | None
    key_drift: list[float]


@dataclass(frozen=True)
class Drift:
    """How far the output of a layer is from the base's; means over tokens.

    Attributes:
        cosine: Between the two.
        distance: Length of their difference over length of the base's.
    """

    cosine: float
    distance: float


@dataclass(frozen=True)
class Measurement:
    """What an adapter does on some documents.

    Attributes:
        documents: Their number.
        tokens: In all of them.
        layers: Adapted ones, from the bottom up.
        hidden: Drift of the output of every layer of the model; of the last one after the final norm.
    """

    documents: int
    tokens: int
    layers: list[LayerMeasure]
    hidden: list[Drift]

    def most_shifted(self, layer: int | None = None, head: int | None = None) -> tuple[int, int]:
        """Index of the layer and query head where attention moves most on average, among those of a layer or head."""
        places = [
            (value, each.index, number)
            for each in self.layers
            for number, value in enumerate(each.shift)
            if layer in (None, each.index) and head in (None, number)
        ]
        return max(places)[1:]

    @property
    def mean_shift(self) -> float:
        """How much attention moves, mean over layers, heads and tokens."""
        return _mean([value for layer in self.layers for value in layer.shift])

    @property
    def top_share(self) -> float | None:
        """Weight of the global prompt that has most of it, in the layer where it is largest; None without a choice.

        Local prompts are left out: what a token makes for itself is no constant, however much weight it has.
        """
        return max((_mean(layer.top_share) for layer in self.layers if layer.prompts > 1), default=None)


def measure(model: PeftModel, documents: Sequence[Sequence[int]]) -> Measurement:
    """Measure the active adapter at its current strength.

    Args:
        model: With one active Excitor adapter. Best in fp32: in half precision rounding alone moves attention.
        documents: Token ids.

    Raises:
        ExcitorError: A document is empty or longer than the model's context, or the model cannot be measured
            (:func:`excitor.diagnostics.attention.measurable`).
    """
    check_documents(model, documents)
    with measurable(model) as adapter:
        found = active_layers(model)
        tallies, drifts = {name: _Tally() for name in found}, _Tally()

        def see(observation: Observation) -> None:
            tallies[observation.name].add(_by_token(observation, adapter))

        for ids in documents:
            adapted = observe(model, ids, see)
            with model.disable_adapter():
                drifts.add(_drift(hidden_states(model, ids), adapted))
        layers = [
            _layer_measure(
                name.removeprefix(PEFT_PREFIX),
                attention_of(model, name).layer_idx,
                tallies[name],
                prompts=layer.parts(adapter)[0].num_prompts,
                has_null=layer.parts(adapter)[1].null_bias is not None,
            )
            for name, layer in found.items()
        ]
    cosine, distance = drifts.means["cosine"].tolist(), drifts.means["distance"].tolist()
    return Measurement(
        documents=len(documents),
        tokens=sum(map(len, documents)),
        layers=layers,
        hidden=[Drift(*pair) for pair in zip(cosine, distance, strict=True)],
    )


def check_documents(model: PeftModel, documents: Sequence[Sequence[int]]) -> None:
    """Refuse what cannot be measured before anything is computed.

    Raises:
        ExcitorError: There is no document, an empty one, or one longer than the model's context.
    """
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or math.inf
    lengths = [len(ids) for ids in documents]
    if not lengths or not min(lengths):
        raise ExcitorError("There is no text to measure on, or a document without a token.")
    if max(lengths) > context:
        raise ExcitorError(f"A document has {max(lengths)} tokens; the model's context is {context}: shorten it.")


class _Tally:
    """Means and maxima over tokens, document by document; tokens are the last dimension."""

    def __init__(self) -> None:
        self.maxima: dict[str, Tensor] = {}
        self._sums: dict[str, Tensor] = {}
        self._tokens = 0

    def add(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            largest = value.amax(-1)
            self.maxima[name] = torch.maximum(self.maxima[name], largest) if name in self.maxima else largest
            self._sums[name] = self._sums.get(name, 0) + value.double().sum(-1)
        self._tokens += next(iter(values.values())).shape[-1]

    @property
    def means(self) -> dict[str, Tensor]:
        return {name: total / self._tokens for name, total in self._sums.items()}


def _by_token(observation: Observation, adapter: str) -> dict[str, Tensor]:
    """Everything about one layer, with tokens as the last dimension; heads come first."""
    layer, hidden = observation.layer, observation.hidden
    strength, gates = layer.excitor_strength[adapter], layer.parts(adapter)[1].gates()
    weights = layer.prompt_weights(adapter, hidden)
    key = observation.key.float().unflatten(-1, (layer.num_heads, -1))
    term = layer.term(adapter, hidden).float().unflatten(-1, (layer.num_heads, -1))
    return {
        "shift": shift(observation.before, observation.after),
        "bound": shift_bound(observation.query_norms, reach(layer, adapter, hidden)),
        "gates": (strength * gates.float())[:, None].expand(-1, len(hidden)),
        "entropy": torch.special.entr(weights).sum(-1).T,
        "weights": weights.movedim(0, -1),
        "key_drift": (strength * term.norm(dim=-1) / key.norm(dim=-1)).T,
    }


def _layer_measure(name: str, index: int, tally: _Tally, *, prompts: int, has_null: bool) -> LayerMeasure:
    means = tally.means
    weights = means["weights"]
    shared, local = weights[:, :prompts], weights[:, prompts : weights.shape[-1] - has_null]
    return LayerMeasure(
        name=name,
        index=index,
        shift=means["shift"].tolist(),
        shift_max=tally.maxima["shift"].tolist(),
        bound=tally.maxima["bound"].tolist(),
        gates=means["gates"].tolist(),
        prompts=prompts,
        entropy=means["entropy"].tolist(),
        max_entropy=math.log(weights.shape[-1]),
        top_share=shared.amax(-1).tolist() if prompts else [0.0] * len(weights),
        local_share=local.sum(-1).tolist() if local.shape[-1] else None,
        null_share=weights[:, -1].tolist() if has_null else None,
        key_drift=means["key_drift"].tolist(),
    )


def _drift(base: list[Tensor], adapted: list[Tensor]) -> dict[str, Tensor]:
    """Of the output of each layer; the embeddings, which come first, are the same."""
    before, after = torch.stack(base[1:]).float(), torch.stack(adapted[1:]).float()
    return {
        "cosine": torch.cosine_similarity(before, after, dim=-1),
        "distance": (after - before).norm(dim=-1) / before.norm(dim=-1),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
