"""Shows one encoded example with what is learned made visible."""

from collections.abc import Mapping, Sequence
from itertools import groupby

from rich.text import Text
from transformers import PreTrainedTokenizerBase

from .encoding import IGNORED


OPEN, CLOSE = "⟦", "⟧"  # so that the mask is visible without colours too
LONGEST = 1200


def preview_example(row: Mapping[str, Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> Text:
    """One encoded row as text: the prompt dim, what is learned green and in brackets, special tokens in magenta.

    The last line counts the learned tokens and names the token the answer ends with, with its id. A stretch of more
    than 1,200 characters is shortened in the middle.

    Args:
        row: ``input_ids`` and ``labels`` of equal length; -100 is not learned.
        tokenizer: The tokenizer the row was encoded with.
    """
    ids, labels = list(row["input_ids"]), list(row["labels"])
    view = Text()
    done = ""
    for learned, group in groupby(range(len(ids)), key=lambda index: labels[index] != IGNORED):
        # Decoded from the start each time, as decoders treat the first token of a text specially.
        text = str(tokenizer.decode(ids[: list(group)[-1] + 1]))
        piece = _shorten(text[len(done) :])
        view.append(f"{OPEN}{piece}{CLOSE}" if learned else piece, "bold green" if learned else "dim")
        done = text
    view.highlight_words(
        [token.content for token in tokenizer.added_tokens_decoder.values() if token.special], "magenta"
    )
    learned_ids = [label for label in labels if label != IGNORED]
    view.append(f"\n{OPEN}learned{CLOSE}: {len(learned_ids)} of {len(ids)} tokens")
    if learned_ids:
        view.append(
            f"; the answer ends with {tokenizer.convert_ids_to_tokens(learned_ids[-1])} (id {learned_ids[-1]})"
        )
    return view


def _shorten(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    half = LONGEST // 2
    return f"{text[:half]} [... {len(text) - 2 * half:,} characters ...] {text[-half:]}"
