"""Turns examples into token ids with labels on the answers only."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any

import datasets
from transformers import PreTrainedTokenizerBase

from ..errors import ExcitorError
from .sources import FEATURES
from .templates import Messages, Span, Template, adds_bos, resolve_template
from .token_cache import read_or_make, token_file


IGNORED = -100
EMPTY = "empty answer"
TOO_LONG = "longer than max_length"


@dataclass(frozen=True)
class Encoded:
    """Examples as tokens, ready for TRL's ``SFTTrainer``.

    Attributes:
        dataset: Columns ``input_ids`` and ``labels`` (lists of int of equal length); a label is -100 on everything
            that is not an answer. Further ones as in the examples.
        rows_read: Rows before any was dropped.
        dropped: Number of rows left out, by reason.
        supervised_tokens: Number of labels that are not -100.
        template: ``"chat"`` or ``"instruction"``, as conversations were rendered; ``"verbatim"`` where there was only
            prompt/completion text. A prompt for the trained model should be rendered with it.
        stop_token: What answers end with; generation should stop there.
        cache: How the cache served, in words; empty where none was used.
    """

    dataset: datasets.Dataset
    rows_read: int
    dropped: dict[str, int]
    supervised_tokens: int
    template: str
    stop_token: str
    cache: str = ""


def encode_examples(
    examples: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    template: str = "auto",
    cache: bool = False,
) -> Encoded:
    """Encode the examples of ``load_examples``; the loss is on every answer, including the token that ends it.

    Conversations are rendered by the template, prompt/completion text is used verbatim. A row is encoded whole or
    dropped: ``Encoded.dropped`` counts rows with an empty answer, with the end token inside an answer, and longer than
    ``max_length``.

    Args:
        examples: Columns ``messages``, ``prompt``, ``completion``, ``source``, ``row``; any others are kept.
        tokenizer: The model's tokenizer.
        max_length: Most tokens a row may have.
        template: For conversations; see ``resolve_template``.
        cache: Keep the tokens on disk, or read them from there where they have been made before; see ``token_file``.

    Raises:
        ExcitorError: No row is left, the template cannot render a row, or the template or tokenizer does not serve.
    """
    carried = {name: kind for name, kind in examples.features.items() if name not in FEATURES}
    only_pairs = all(messages is None for messages in examples["messages"])
    resolved = resolve_template(tokenizer, "verbatim" if only_pairs else template)
    make = partial(
        examples.map,
        _encode_batch,
        batched=True,
        remove_columns=list(FEATURES),
        fn_kwargs={"template": resolved, "max_length": max_length},
        features=datasets.Features(
            {
                "input_ids": datasets.List(datasets.Value("int32")),
                "labels": datasets.List(datasets.Value("int32")),
                "dropped": datasets.Value("string"),
                "length": datasets.Value("int64"),
                "supervised": datasets.Value("int64"),
            }
            | carried
        ),
        desc="Encoding",
    )
    file = token_file(examples, tokenizer, resolved.jinja, max_length) if cache else None
    encoded, served = read_or_make(file, make) if file else (make(), "")
    reasons: list[str | None] = encoded["dropped"][:]
    kept = [index for index, reason in enumerate(reasons) if reason is None]
    dropped = Counter(reason for reason in reasons if reason is not None)
    if not kept:
        lengths = [length for length in encoded["length"] if length] or [0]
        raise ExcitorError(
            f"none of the {len(examples):,} rows is left to learn from: "
            + ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
            + f" (shortest row {min(lengths):,} tokens, longest {max(lengths):,}, max_length {max_length:,})"
            + ("; raise max_length" if TOO_LONG in dropped else "")
        )
    return Encoded(
        dataset=encoded.select(kept).select_columns(["input_ids", "labels", *carried]),
        rows_read=len(examples),
        dropped=dict(dropped),
        supervised_tokens=sum(encoded["supervised"]),
        template=resolved.name,
        stop_token=resolved.stop_token,
        cache=served,
    )


def render_prompt(messages: Messages, tokenizer: PreTrainedTokenizerBase, template: str = "auto") -> str:
    """The text a model must continue, rendered as in training.

    It holds its special tokens: tokenise it with ``add_special_tokens=False``, as ``encode_prompt`` does.

    Raises:
        ExcitorError: As ``resolve_template``, or the template refuses the messages.
    """
    return resolve_template(tokenizer, template).prompt(messages)


def encode_prompt(messages: Messages, tokenizer: PreTrainedTokenizerBase, template: str = "auto") -> list[int]:
    """The token ids a model must continue: exactly those in front of the answer in training.

    Raises:
        ExcitorError: As ``render_prompt``.
    """
    return tokenizer(render_prompt(messages, tokenizer, template), add_special_tokens=False).input_ids


def _encode_batch(rows: dict[str, list[Any]], template: Template, max_length: int) -> dict[str, list[Any]]:
    verbatim = resolve_template(template.tokenizer, "verbatim")
    size = len(rows["row"])
    columns: dict[str, list[Any]] = {
        "input_ids": [[] for _ in range(size)],
        "labels": [[] for _ in range(size)],
        "dropped": [None] * size,
        "length": [0] * size,
        "supervised": [0] * size,
    }
    rendered: dict[int, tuple[str, list[Span]]] = {}
    for index, messages in enumerate(rows["messages"]):
        try:
            if messages is None:
                pair = pair_messages(rows["prompt"][index], rows["completion"][index], template.tokenizer)
                result = _render(pair, verbatim)
            else:
                result = _render(messages, template)
        except ExcitorError as error:
            raise ExcitorError(f"{rows['source'][index]}, row {rows['row'][index]}: {error}") from None
        if isinstance(result, str):
            columns["dropped"][index] = result
        else:
            rendered[index] = result
    for index, (ids, labels) in zip(rendered, _tokenise(list(rendered.values()), template.tokenizer), strict=True):
        columns["length"][index] = len(ids)
        if len(ids) > max_length:
            columns["dropped"][index] = TOO_LONG
        else:
            columns["input_ids"][index], columns["labels"][index] = ids, labels
            columns["supervised"][index] = sum(label != IGNORED for label in labels)
    return columns


def pair_messages(prompt: str, completion: str, tokenizer: PreTrainedTokenizerBase) -> Messages:
    """A text pair as question and answer, without the BOS and EOS which some files already hold."""
    if adds_bos(tokenizer):
        prompt = prompt.removeprefix(str(tokenizer.bos_token))
    completion = completion.removesuffix(str(tokenizer.eos_token))
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]


def _render(messages: Messages, template: Template) -> tuple[str, list[Span]] | str:
    """Text and answer spans, or the reason to drop the row. What follows the last answer is cut off."""
    answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    if not answers or not all(messages[index]["content"].strip() for index in answers):
        return EMPTY
    if any(template.stop_token in messages[index]["content"] for index in answers):
        return f"{template.stop_token} inside an answer"
    return template.conversation(messages[: answers[-1] + 1])


def _tokenise(
    rendered: Sequence[tuple[str, list[Span]]], tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[list[int], list[int]]]:
    """Token ids and labels of each text.

    A text is tokenised in one go, as a prompt is at inference, and so is what stands before each edge of an answer:
    the answer's tokens begin where the two differ. (Offsets would tell the same more cheaply, but they are wrong for
    tokenizers that drop characters they do not know.)

    Where a token straddles the border between the last prompt and its answer, the model would learn from a prompt it
    never sees, as at inference the prompt ends at the border. There, and only there, the answer is tokenised apart.
    """
    edges = [[text[:edge] for span in spans for edge in span][:-1] for text, spans in rendered]  # the last is the end
    whole = _ids([text for text, _ in rendered], tokenizer)
    heads = iter(_ids(list(chain.from_iterable(edges)), tokenizer))
    for (text, spans), ids in zip(rendered, whole, strict=True):
        before = list(islice(heads, 2 * len(spans) - 1))
        prompt = before[-1]
        if ids[: len(prompt)] != prompt:
            ids = prompt + _continue(text[spans[-1][0] :], tokenizer)
        cuts = [*(_common_prefix(head, ids) for head in before), len(ids)]
        labels = [IGNORED] * len(ids)
        for start, end in zip(cuts[::2], cuts[1::2], strict=True):
            labels[start:end] = ids[start:end]
        yield ids, labels


def _continue(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of a text that stands after another one.

    SentencePiece tokenizers put a space in front of whatever they are given, so the text is given behind an anchor
    with which its first token does not merge, and the anchor is taken off again.
    """
    for anchor in ("\n", "a", ".", "0", ")"):
        head, ids = _ids([anchor, anchor + text], tokenizer)
        if ids[: len(head)] == head:
            return ids[len(head) :]
    raise ExcitorError(f"the tokenizer merges the start of the answer {text[:40]!r} with whatever stands before it")


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    pairs = zip(first, second, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def _ids(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids of each text; a rendered text holds its special tokens already."""
    return tokenizer(texts, add_special_tokens=False, verbose=False).input_ids if texts else []
