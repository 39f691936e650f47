"""Greedy answers to many prompts: batched, padded on the left, cached."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.generation.logits_process import LogitsProcessorList

from excitor.data.templates import resolve_template
from excitor.errors import NonFiniteError
from excitor.evaluate.parallel import merge, share, this_process
from excitor.evaluate.task import Subject


# A checkpoint's own generation settings may hold penalties; they would change which token is the likeliest.
GREEDY = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "use_cache": True}


Inputs = Callable[[Sequence[str]], Mapping[str, Tensor]]
"""What a model is given of prompts beside their tokens, by their names."""


def no_inputs(names: Sequence[str]) -> Mapping[str, Tensor]:
    """Nothing beside tokens."""
    return {}


def answer_all(
    subjects: Sequence[Subject],
    tokenizer: PreTrainedTokenizerBase,
    prompts: Mapping[str, Sequence[int]],
    progress: Progress,
    title: str,
    *,
    inputs: Inputs = no_inputs,
    **settings: Any,
) -> dict[str, dict[str, str | None]]:
    """Every subject's replies to the same prompts, by the subject's name; ``settings`` as in `generate_replies`.

    The shortest context decides for all subjects which prompts are too long. ``inputs`` are given to adapters alone: a
    base has nothing that could see a picture.

    Raises:
        NonFiniteError: Logits are NaN; the message names the subject and the prompt.
    """
    context = min(context_length(subject.model, tokenizer) for subject in subjects)
    replies: dict[str, dict[str, str | None]] = {}
    for subject in subjects:
        bar = progress.add_task(f"{title}: {subject.name}", total=len(prompts))
        with subject.active() as model:
            try:
                replies[subject.name] = generate_replies(
                    model,
                    tokenizer,
                    prompts,
                    context=context,
                    inputs=inputs if subject.adapter else no_inputs,
                    on_batch=lambda rows, bar=bar: progress.advance(bar, rows),
                    **settings,
                )
            except NonFiniteError as error:
                raise NonFiniteError(f"{subject.name}: {error}") from None
    return replies


@torch.no_grad()
def generate_replies(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Mapping[str, Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    template: str = "auto",
    context: int | None = None,
    on_batch: Callable[[int], object] = lambda rows: None,
    inputs: Inputs = no_inputs,
) -> dict[str, str | None]:
    """Continue every prompt with the likeliest tokens, up to a token that ends an answer.

    Several processes share the batches, and each of them gets all replies. A reply does not depend on the prompts
    beside it, up to rounding. Sampling settings and penalties stored with the checkpoint are not used.

    Args:
        model: Anything with ``generate``, in evaluation mode.
        tokenizer: Decodes the replies; its padding token may be missing.
        prompts: Token ids by name, as ``encode_prompt`` gives them.
        max_new_tokens: Longest reply, in tokens.
        batch_size: Prompts side by side; those of similar length go together.
        template: What the prompts were rendered with; its stop token ends an answer, and so does the model's own.
        context: Most tokens in prompt and reply together; by default what the model reads.
        on_batch: Told how many more prompts are done, in all processes.
        inputs: What the model is given of some prompts beside their tokens, such as pictures.

    Returns:
        By name, in the order given, the reply without special tokens and surrounding white space; None where prompt
        and longest reply together exceed the context.

    Raises:
        NonFiniteError: Logits are NaN; the message names the prompt.
    """
    room = (context or context_length(model, tokenizer)) - max_new_tokens
    fitting = sorted((name for name in prompts if len(prompts[name]) <= room), key=lambda name: -len(prompts[name]))
    stops = stop_tokens(model, tokenizer, template)
    padding = next(token for token in (tokenizer.pad_token_id, *stops, 0) if isinstance(token, int))
    processes = this_process().num_processes
    replies: dict[str, str | None] = {}
    on_batch(len(prompts) - len(fitting))
    for names in share([fitting[start : start + batch_size] for start in range(0, len(fitting), batch_size)]):
        ids, mask = _pad_left([prompts[name] for name in names], padding)
        tokens = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            **{name: tensor.to(model.device) for name, tensor in inputs(names).items()},
            max_new_tokens=max_new_tokens,
            eos_token_id=stops or None,
            pad_token_id=padding,
            logits_processor=LogitsProcessorList([NanGuard(names)]),  # pyright: ignore[reportArgumentType]
            **GREEDY,
        )[:, ids.shape[1] :]
        for name, row in zip(names, tokens.tolist(), strict=True):
            end = next((index for index, token in enumerate(row) if token in stops), len(row))
            replies[name] = str(tokenizer.decode(row[:end], skip_special_tokens=True)).strip()
        on_batch(len(names) * processes)
    return dict.fromkeys(prompts) | merge(replies)


def context_length(model: Any, tokenizer: PreTrainedTokenizerBase) -> int:
    """The longest text the model reads, in tokens; the tokenizer's limit where the model states none."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or tokenizer.model_max_length


def stop_tokens(model: Any, tokenizer: PreTrainedTokenizerBase, template: str) -> list[int]:
    """The token that ends an answer in the template, and those that end a text for the base model."""
    trained = tokenizer.convert_tokens_to_ids(resolve_template(tokenizer, template).stop_token)
    known = model.generation_config.eos_token_id
    tokens = [trained, tokenizer.eos_token_id, *(known if isinstance(known, list) else [known])]
    return list(dict.fromkeys(token for token in tokens if isinstance(token, int)))


class NanGuard:
    """A logits processor that changes nothing: the argmax over NaN would be a token like any other.

    Args:
        names: What to call the prompts of the batch in a message.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Raise NonFiniteError if a score is NaN."""
        broken = scores.isnan().any(dim=-1)
        if broken.any():
            raise NonFiniteError(
                f"The model's logits are NaN while it answers {self.names[int(broken.int().argmax())]}."
            )
        return scores


def _pad_left(rows: Sequence[Sequence[int]], padding: int) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, ``[rows, longest]``."""
    width = max(map(len, rows))
    ids = torch.tensor([[padding] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask
