"""What a tokenizer cannot write: there a model reads less than a person does."""

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from transformers import PreTrainedTokenizerBase


def unknown_share(rows: Iterable[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> float:
    """Share of tokens that only say "something unknown", 0 where the tokenizer can write everything.

    Args:
        rows: Token ids.
        tokenizer: Where its unknown token starts or ends texts too (GPT-2), it is not counted. Characters for which a
            tokenizer writes no token at all cannot be seen in the ids.
    """
    unknown = cast(int | None, tokenizer.unk_token_id)
    if unknown is None or unknown in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        return 0.0
    counts = [(list(row).count(unknown), len(row)) for row in rows]
    return sum(lost for lost, _ in counts) / max(1, sum(total for _, total in counts))


def unknown_warning(shares: Mapping[str, float], token: str) -> str | None:
    """A sentence on the tasks that lose something; None if none does.

    Args:
        shares: By task.
        token: How the tokenizer writes what it does not know.
    """
    found = ", ".join(f"{task} {share:.2%}" for task, share in shares.items() if share)
    if not found:
        return None
    return (
        f"Some characters are unknown to the tokenizer: share of tokens that are {token}: {found}. All subjects read "
        "the same, but not what the files say."
    )
