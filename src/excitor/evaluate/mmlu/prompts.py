"""The prompts of MMLU as token ids, and the tokens of the four letters."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from transformers import PreTrainedTokenizerBase

from excitor.errors import ExcitorError
from excitor.evaluate.mmlu.questions import LETTERS, Question, Topic


@dataclass(frozen=True)
class Prompt:
    """What the model reads in front of the letter."""

    ids: list[int]
    shots: int
    """Few-shot examples it holds; fewer than asked for where the context is too short for them."""
    cut: int
    """Tokens taken off its start, where the question is too long for the context even without examples."""


@dataclass(frozen=True)
class Letters:
    """How a tokenizer writes the letters after "Answer:", a space in front of them.

    The prompt and a letter are tokenised together, as the examples in the prompt are. What all four have in common
    belongs to the prompt: usually " A", ... are single tokens, and nothing but the prompt is shared; in small
    vocabularies the space may be a token of its own, or part of the colon's.
    """

    tokens: tuple[tuple[int, ...], ...]
    """Those of A, B, C and D, mostly one each; a letter's log-likelihood is the sum over its tokens."""

    @property
    def stem(self) -> tuple[int, ...]:
        """The tokens to append to a prompt so that the last token of every letter is predicted somewhere."""
        return max((letter[:-1] for letter in self.tokens), key=len)


def prompt_text(topic: Topic, question: Question, shots: int) -> str:
    """The prompt of Hendrycks et al., ending in "Answer:".

    The two spaces in front of the topic are theirs.
    """
    head = f"The following are multiple choice questions (with answers) about  {topic.name.replace('_', ' ')}.\n\n"
    examples = "".join(f"{block(example)} {example.answer}\n\n" for example in topic.examples[:shots])
    return head + examples + block(question)


def block(question: Question) -> str:
    """A question with its choices, up to where the letter is wanted."""
    choices = (f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, question.choices, strict=True))
    return question.text + "".join(choices) + "\nAnswer:"


def encode_letters(tokenizer: PreTrainedTokenizerBase) -> Letters:
    """The tokens by which the letters differ after "Answer:".

    Raises:
        ExcitorError: The tokenizer does not write each letter at the end, as tokens that tell it from the others.
    """
    whole = tokenizer([f"D. yes\nAnswer: {letter}" for letter in LETTERS]).input_ids
    shared = count_shared(whole)
    letters = Letters(tuple(tuple(ids[shared:]) for ids in whole))
    stem = letters.stem
    if len(set(letters.tokens)) < len(LETTERS) or any(own[:-1] != stem[: len(own) - 1] for own in letters.tokens):
        tokens = [tokenizer.convert_ids_to_tokens(ids[shared:]) for ids in whole]
        raise ExcitorError(
            f"The tokenizer {tokenizer.name_or_path!r} ends 'Answer: A' to 'Answer: D' in {tokens}; the letters' "
            "likelihoods can be compared only where a letter comes last and has a token of its own."
        )
    return letters


def encode_topic(
    topic: Topic, tokenizer: PreTrainedTokenizerBase, letters: Letters, *, shots: int, context: int
) -> list[Prompt]:
    """A prompt for each question of a topic.

    Where a prompt is longer than the context, few-shot examples are dropped one by one, the last first, as Hendrycks
    et al. do. A question that is too long even without examples loses its start, as in lm-evaluation-harness.

    Args:
        topic: Gives the questions and the examples.
        tokenizer: That of the model.
        letters: What it makes of the letters.
        shots: Examples in a prompt, at most.
        context: Most tokens the model can read.
    """
    max_length = context - len(letters.stem)
    prompts: dict[int, Prompt] = {}
    for kept in range(shots, -1, -1):
        waiting = [place for place in range(len(topic.questions)) if place not in prompts]
        if not waiting:
            break
        texts = [f"{prompt_text(topic, topic.questions[place], kept)} {LETTERS[0]}" for place in waiting]
        for place, ids in zip(waiting, tokenizer(texts, verbose=False).input_ids, strict=True):
            prompt = ids[: -len(letters.tokens[0])]
            if len(prompt) <= max_length or kept == 0:
                prompts[place] = Prompt(prompt[-max_length:], kept, max(0, len(prompt) - max_length))
    return [prompts[place] for place in range(len(topic.questions))]


def count_shared(rows: Sequence[list[int]]) -> int:
    """The number of tokens with which all rows start, at least one being left to each row."""
    first, last = min(rows), max(rows)  # in the order of lists, what these two share all share
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return min(sum(1 for _ in pairs), min(len(row) for row in rows) - 1)
