"""What ``generate`` and ``chat`` share: their options, and a loaded adapter that answers."""

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from excitor.arguments import LARGEST_SEED
from excitor.errors import ExcitorError
from excitor.run_record import read_run


if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase


Messages = list[dict[str, str]]

Adapter = Annotated[str, typer.Option(help="Folder that excitor train wrote, or hub id of an adapter.")]
Base = Annotated[str | None, typer.Option(help="Base model, if it is not where the adapter says.")]
Strength = Annotated[float, typer.Option(min=0.0, help="Factor on the gates: 0 is the base model, 1 is as trained.")]
System = Annotated[
    str | None, typer.Option(help="What stands before the conversation as the system's words, if training had any.")
]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")]
Temperature = Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token; larger is more varied.")]
TopP = Annotated[float, typer.Option(min=0.0, max=1.0, help="Draw from the likeliest tokens of this total share.")]
LoadIn4bit = Annotated[
    bool | None, typer.Option(help="Load the base in 4 bits (NF4); as it was trained on, if not given.")
]
LoadIn8bit = Annotated[bool | None, typer.Option(help="Load the base in 8 bits (LLM.int8); likewise.")]
Seed = Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the draws.")]


@dataclass(frozen=True)
class Decoding:
    """How an answer is drawn."""

    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn from, and what would do nothing."""
        if not math.isfinite(self.temperature):
            raise ExcitorError(f"--temperature must be a finite number of at least 0, got {self.temperature}.")
        if self.top_p < 1 and not self.temperature:
            raise ExcitorError(
                f"--top-p {self.top_p} would do nothing: without --temperature the likeliest token is taken, and "
                "nothing is drawn. Give --temperature 1 too."
            )


@dataclass(frozen=True)
class Responder:
    """An adapter on its base, answering in the template it was trained with; ``system`` speaks first, if given."""

    model: "PeftModel"
    tokenizer: "PreTrainedTokenizerBase"
    template: str
    decoding: Decoding
    system: str | None = None

    @property
    def context(self) -> int:
        """The longest text the model reads, in tokens."""
        from excitor.evaluate.generation import context_length

        return context_length(self.model, self.tokenizer)

    def excess(self, messages: Messages) -> int:
        """How many tokens too long the prompt and the longest answer are together; 0 or less when they fit."""
        return len(self._encode(messages)) + self.decoding.max_new_tokens - self.context

    def answer(self, messages: Messages, *, base: bool = False, stream: bool = False) -> str:
        """Answers the last message.

        Args:
            messages: Each with ``role`` and ``content``, the last one from the user.
            base: The base model answers, with the adapter off.
            stream: The answer is printed while it grows.

        Raises:
            ExcitorError: Prompt and answer do not fit the model's context together.
        """
        import torch
        from transformers import TextStreamer, set_seed

        from excitor.evaluate.generation import stop_tokens

        excess = self.excess(messages)
        if excess > 0:
            raise ExcitorError(
                f"The prompt and {self.decoding.max_new_tokens} new tokens are {excess} tokens longer than the "
                f"model's context of {self.context}: shorten the prompt or lower --max-new-tokens."
            )
        prompt = torch.tensor([self._encode(messages)], device=self.model.device)
        draws = self.decoding.temperature > 0
        sampling = {"temperature": self.decoding.temperature, "top_p": self.decoding.top_p, "top_k": 0}
        set_seed(self.decoding.seed)
        with self.model.disable_adapter() if base else nullcontext():
            output = self.model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=draws,
                **(sampling if draws else {}),
                max_new_tokens=self.decoding.max_new_tokens,
                eos_token_id=stop_tokens(self.model, self.tokenizer, self.template) or None,
                streamer=TextStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True) if stream else None,
            )
        return str(self.tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True)).strip()

    def _encode(self, messages: Messages) -> list[int]:
        from excitor.data.encoding import encode_prompt

        first = [] if self.system is None else [{"role": "system", "content": self.system}]
        return encode_prompt([*first, *messages], self.tokenizer, self.template)


def load(
    adapter: str,
    base: str | None,
    strength: float,
    decoding: Decoding,
    load_in_4bit: bool | None = None,
    load_in_8bit: bool | None = None,
    system: str | None = None,
) -> Responder:
    """Loads an adapter on its base, ready to answer; see :func:`load_trained`."""
    trained = load_trained(adapter, base, strength, load_in_4bit=load_in_4bit, load_in_8bit=load_in_8bit)
    responder = Responder(*trained, decoding, system)
    if decoding.max_new_tokens >= responder.context:
        raise ExcitorError(
            f"--max-new-tokens {decoding.max_new_tokens} leaves no room for a prompt in the model's context of "
            f"{responder.context} tokens: lower it."
        )
    return responder


def load_trained(
    adapter: str,
    base: str | None,
    strength: float,
    dtype: str = "auto",
    load_in_4bit: bool | None = None,
    load_in_8bit: bool | None = None,
) -> "tuple[PeftModel, PreTrainedTokenizerBase, str]":
    """Loads an adapter on its base, with its tokenizer and the name of the template it was trained with.

    Raises:
        ExcitorError: The adapter or its base is missing, damaged, or one does not fit the other.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()

    from excitor.checkpoint import load_adapter
    from excitor.quantised import chosen_bits
    from excitor.strength import set_strength

    bits = chosen_bits(load_in_4bit, load_in_8bit, [adapter])
    model, tokenizer = load_adapter(adapter, base, dtype, bits=bits)
    if strength != 1:  # an adapter of another PEFT method answers too, but has no strength
        set_strength(model, strength)
    return model, tokenizer, read_run(adapter).get("template", "auto")
