"""What one would use in place of visual prompts: a projector as in LLaVA, visual adaption prompts as in LLaMA-Adapter.

Both take the features that Excitor takes, on the same frozen language model, and are called as
``ExcitorForConditionalGeneration`` is, with ``image_features``.
"""

import itertools
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb


class Projector(nn.Module):
    """Features become tokens of the sequence, behind its first (LLaVA 1.5, arXiv 2310.03744: two layers with GELU).

    Args:
        language_model: Frozen, or with a PEFT method of its own on it.
        width: Of the features, D.
        hidden: Width between the two layers; that of the language model in LLaVA.
    """

    def __init__(self, language_model: Any, width: int, hidden: int) -> None:
        super().__init__()
        self.language_model = language_model
        embedding = language_model.get_input_embeddings()
        self.projector = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, embedding.embedding_dim))
        # The first step must not drown in tokens of another size than those that the model knows.
        nn.init.normal_(self.projector[2].weight, std=embedding.weight.float().std().item() / hidden**0.5)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor | None = None,
        image_features: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """As the language model's, for rows of as many pictures each."""
        inputs, mask = self._inputs(input_ids, attention_mask, image_features)
        if labels is not None:
            nothing = labels.new_full((len(labels), inputs.shape[1] - labels.shape[1]), -100)
            labels = torch.cat([labels[:, :1], nothing, labels[:, 1:]], 1)
        return self.language_model(inputs_embeds=inputs, attention_mask=mask, labels=labels, **kwargs)

    def generate(
        self, input_ids: Tensor, attention_mask: Tensor, image_features: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """As the language model's: prompts and answers."""
        inputs, mask = self._inputs(input_ids, attention_mask, image_features)
        answers = self.language_model.generate(inputs_embeds=inputs, attention_mask=mask, **kwargs)
        return torch.cat([input_ids, answers], 1)

    def _inputs(self, input_ids: Tensor, mask: Tensor, features: Tensor | None) -> tuple[Tensor, Tensor]:
        words = self.language_model.get_input_embeddings()(input_ids)
        if features is None:
            return words, mask
        seen = (
            self.projector(features.to(self.projector[0].weight.dtype))
            .to(words.dtype)
            .reshape(len(words), -1, words.shape[-1])
        )
        starts = mask.argmax(1) + 1  # behind the first token, in front of which there may be padding
        return _inserted(words, seen, starts), _inserted(mask, mask.new_ones(seen.shape[:2]), starts)


def _inserted(rows: Tensor, parts: Tensor, places: Tensor) -> Tensor:
    """Each row with its part put in at its place."""
    made = [torch.cat([row[:at], part, row[at:]]) for row, part, at in zip(rows, parts, places.tolist(), strict=True)]
    return torch.stack(made)


class VisualAdaptionPrompts(nn.Module):
    """LLaMA-Adapter with pictures (arXiv 2303.16199, section 3.4): prompts of the attention, a global feature added.

    The mean of a row's features, projected to the model's width, is added to each prompt of each layer; tokens attend
    to the prompts apart from the sequence, and what they find is added to the attention's output behind a gate that
    starts at zero.

    Args:
        language_model: A frozen LLaMA.
        width: Of the features, D.
        length: Prompts per layer.
        hidden: Width of a bottleneck in the projection; none if not given.
    """

    def __init__(self, language_model: PreTrainedModel, width: int, length: int, hidden: int | None = None) -> None:
        super().__init__()
        self.language_model: Any = language_model.requires_grad_(False)
        layers, size = self.language_model.model.layers, self.language_model.config.hidden_size
        self.prompts = nn.Parameter(torch.randn(len(layers), length, size) * 0.02)
        self.gates = nn.Parameter(torch.zeros(len(layers)))
        sizes = [width, size] if hidden is None else [width, hidden, size]
        self.projection = nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(sizes)))
        self._picture: Tensor | None = None
        for index, layer in enumerate(layers):
            layer.self_attn.register_forward_hook(_Attend(self, index), with_kwargs=True)

    def forward(self, input_ids: Tensor, image_features: Tensor | None = None, **kwargs: Any) -> Any:
        """As the language model's, for rows of as many pictures each."""
        self._see(input_ids, image_features)
        return self.language_model(input_ids, **kwargs)

    def generate(self, input_ids: Tensor, image_features: Tensor | None = None, **kwargs: Any) -> Tensor:
        """As the language model's."""
        self._see(input_ids, image_features)
        return self.language_model.generate(input_ids, **kwargs)

    def _see(self, input_ids: Tensor, features: Tensor | None) -> None:
        if features is None:
            self._picture = None
            return
        rows = features.reshape(len(input_ids), -1, features.shape[-1])
        self._picture = self.projection(rows.mean(1).to(self.prompts.dtype))


class _Attend:
    """Adds to the output of one attention what its tokens find in the prompts."""

    def __init__(self, owner: VisualAdaptionPrompts, index: int) -> None:
        self.owner, self.index = owner, index

    def __call__(self, attention: Any, args: tuple, kwargs: dict[str, Any], output: tuple) -> tuple:
        hidden = args[0] if args else kwargs["hidden_states"]
        owner, size = self.owner, attention.head_dim
        prompts = owner.prompts[self.index][None]
        if owner._picture is not None:
            prompts = prompts + owner._picture[:, None]
        prompts = prompts.to(hidden.dtype)

        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (-1, size)).transpose(1, 2)

        query, key, value = (
            heads(each) for each in (attention.q_proj(hidden), attention.k_proj(prompts), attention.v_proj(prompts))
        )
        query, _ = apply_rotary_pos_emb(query, query, *kwargs["position_embeddings"])
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        weights = (query @ key.transpose(2, 3) * attention.scaling).softmax(-1, dtype=torch.float32).to(query.dtype)
        found = attention.o_proj((weights @ value).transpose(1, 2).flatten(2))
        return output[0] + owner.gates[self.index].to(found.dtype) * found, *output[1:]


def make_projector(language_model: Any, width: int, wanted: int) -> Projector:
    """A projector of about so many parameters in front of a frozen language model."""
    return Projector(language_model, width, _hidden(language_model, width, wanted))


def make_projector_lora(language_model: Any, width: int, wanted: int) -> Projector:
    """The same with LoRA on queries and values; each has half of the parameters."""
    config = language_model.config
    heads = config.num_attention_heads + config.num_key_value_heads
    per_rank = config.num_hidden_layers * (2 * config.hidden_size + heads * config.head_dim)
    rank = max(1, round(wanted / 2 / per_rank))
    hidden = _hidden(language_model, width, wanted - rank * per_rank)
    lora = LoraConfig(r=rank, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    return Projector(get_peft_model(language_model, lora), width, hidden)


def make_adaption_prompts(language_model: Any, width: int, wanted: int) -> VisualAdaptionPrompts:
    """Visual adaption prompts of about so many parameters."""
    size, layers = language_model.config.hidden_size, language_model.config.num_hidden_layers
    return VisualAdaptionPrompts(language_model, width, max(1, round((wanted - width * size) / (layers * size))))


# Each takes a frozen language model, the width of the features, and about how many parameters to train.
ALTERNATIVES = {
    "projector": make_projector,
    "projector and LoRA q,v": make_projector_lora,
    "visual adaption prompts": make_adaption_prompts,
}


def _hidden(language_model: Any, width: int, wanted: int) -> int:
    size = language_model.config.hidden_size
    return max(1, round((wanted - size) / (width + size + 1)))
