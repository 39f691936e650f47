"""How a conversation becomes text: the tokenizer's own chat template, or a plain instruction template."""

import re
from dataclasses import dataclass
from typing import Any, cast

import jinja2
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from ..errors import ExcitorError


Messages = list[dict[str, str]]
Span = tuple[int, int]

TEMPLATES = ("auto", "chat", "instruction", "verbatim")

# For models without a chat template. Jinja as well, so that one path renders every template.
INSTRUCTION_TEMPLATE = (
    r"{% for message in messages %}"
    r"{% if message.role == 'system' %}{{ message.content | trim ~ '\n\n' }}"
    r"{% elif message.role == 'user' %}{{ '### Instruction:\n' ~ message.content | trim ~ '\n\n' }}"
    r"{% elif message.role == 'assistant' %}"
    r"{{ '### Response:\n' ~ message.content | trim ~ eos_token ~ '\n\n' }}"
    r"{% else %}{{ raise_exception('the instruction template has no place for the role ' ~ message.role) }}"
    r"{% endif %}{% endfor %}"
    r"{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
)
# For text pairs: nothing is added but the end of the answer.
VERBATIM_TEMPLATE = (
    r"{% for message in messages %}{{ message.content }}"
    r"{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Template:
    """A chat template bound to its tokenizer.

    The rendered text holds every special token, so it is always tokenised with ``add_special_tokens=False``.

    Attributes:
        name: ``"chat"``, ``"instruction"`` or ``"verbatim"``.
        jinja: The template; ``tokenizer.chat_template = template.jinja`` makes it the tokenizer's own.
        tokenizer: Supplies the special tokens.
        stop_token: The token every answer ends with.
        ends_turns: Whether the template prints ``stop_token`` after each answer by itself. Otherwise it is appended
            after the last answer.
    """

    name: str
    jinja: str
    tokenizer: PreTrainedTokenizerBase
    stop_token: str
    ends_turns: bool

    def prompt(self, messages: Messages) -> str:
        """The text a model continues with its next answer.

        Raises:
            ExcitorError: The template refuses the messages.
        """
        return _render(self.jinja, messages, self.tokenizer, add_generation_prompt=True)[0]

    def conversation(self, messages: Messages) -> tuple[str, list[Span]]:
        """The text up to the end of the last answer, and where in it each answer lies, its end token included.

        Args:
            messages: The last one is an answer.

        Raises:
            ExcitorError: The template refuses the messages, or renders the start of a conversation differently once
                it goes on, so that the answers cannot be located.
        """
        text, marked = _render(self.jinja, messages, self.tokenizer)
        spans = self._extend(text, marked, messages) if marked else self._locate(text, messages)
        start, end = spans[-1]
        if self.ends_turns:
            return text[:end], spans
        return text[:end] + self.stop_token, [*spans[:-1], (start, end + len(self.stop_token))]

    def _locate(self, text: str, messages: Messages) -> list[Span]:
        """Answers in a text without marks: from the end of the prompt to the token that ends the turn."""
        answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        starts = [self._prefix(text, self.prompt(messages[:index])) for index in answers]
        if self.ends_turns:
            ends = [text.find(self.stop_token, start) + len(self.stop_token) for start in starts]
        else:
            heads = [_render(self.jinja, messages[: index + 1], self.tokenizer)[0] for index in answers]
            ends = [self._prefix(text, head) for head in heads]
        return list(zip(starts, ends, strict=True))

    def _extend(self, text: str, marked: list[Span], messages: Messages) -> list[Span]:
        """The template's own marks, which may leave out the end token, or start later than generation does."""
        stop = self.stop_token
        spans = [(start, end + len(stop) if text.startswith(stop, end) else end) for start, end in marked]
        start, end = spans[-1]
        return [*spans[:-1], (min(start, self._prefix(text, self.prompt(messages[:-1]))), end)]

    @staticmethod
    def _prefix(text: str, prefix: str) -> int:
        if not text.startswith(prefix):
            raise ExcitorError(
                "the tokenizer's chat template renders the start of this conversation differently once it goes on, so "
                "its answers cannot be located; use --template instruction, or a chat template with {% generation %}"
            )
        return len(prefix)


def resolve_template(tokenizer: PreTrainedTokenizerBase, template: str = "auto") -> Template:
    """Choose the template: ``"chat"``, ``"instruction"``, ``"verbatim"``, or ``"auto"``: chat where there is one.

    Raises:
        ExcitorError: An unknown name, ``"chat"`` without a chat template, or no token that could end an answer.
    """
    if template not in TEMPLATES:
        raise ExcitorError(f"template must be one of {', '.join(TEMPLATES)}, got {template!r}")
    if template == "chat" and tokenizer.chat_template is None:
        raise ExcitorError(
            f"the tokenizer of {tokenizer.name_or_path or 'this model'} has no chat template; "
            "use --template instruction, or auto"
        )
    if template == "auto":
        template = "instruction" if tokenizer.chat_template is None else "chat"
    if template != "chat":
        jinja = INSTRUCTION_TEMPLATE if template == "instruction" else VERBATIM_TEMPLATE
        bos = "{{ bos_token }}" if adds_bos(tokenizer) else ""
        return Template(template, bos + jinja, tokenizer, _eos_token(tokenizer), ends_turns=True)
    jinja = tokenizer.get_chat_template()
    stop = _printed_stop_token(jinja, tokenizer)
    return Template("chat", jinja, tokenizer, stop or _eos_token(tokenizer), ends_turns=stop is not None)


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer itself starts a text with BOS; then every text we make starts with it, and only then."""
    first = tokenizer("a").input_ids[0]
    return tokenizer.bos_token_id is not None and first == tokenizer.bos_token_id


def _eos_token(tokenizer: PreTrainedTokenizerBase) -> str:
    if tokenizer.eos_token is None:
        raise ExcitorError(
            f"the tokenizer of {tokenizer.name_or_path or 'this model'} has no EOS token, so a model could not learn "
            "where an answer ends; set tokenizer.eos_token and save the tokenizer again"
        )
    return str(tokenizer.eos_token)


def _printed_stop_token(jinja: str, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The special token the template prints right after an answer; None where it prints none."""
    answer = "An answer."
    text, _ = _render(jinja, [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}], tokenizer)
    tail = text.rpartition(answer)[2].lstrip()
    specials = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return max((token for token in specials if tail.startswith(token)), key=len, default=None)


def _render(
    jinja: str, messages: Messages, tokenizer: PreTrainedTokenizerBase, *, add_generation_prompt: bool = False
) -> tuple[str, list[Span]]:
    """The text, and the spans inside ``{% generation %}`` where the template has it."""
    marked = re.search(r"\{%-?\s*generation\s*-?%\}", jinja) is not None
    special_tokens = cast(dict[str, Any], tokenizer.special_tokens_map)
    try:
        texts, spans = render_jinja_template(
            [messages],
            chat_template=jinja,
            add_generation_prompt=add_generation_prompt,
            return_assistant_tokens_mask=marked,
            **special_tokens,
        )
    except jinja2.TemplateError as error:
        raise ExcitorError(f"the template refuses this conversation: {error}") from error
    return texts[0], cast(list[Span], spans[0]) if marked else []
