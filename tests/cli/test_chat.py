import builtins
from collections.abc import Callable

import pytest

from excitor.cli.chat import COMMANDS
from excitor.cli.decode import Decoding, Responder, load


GREEDY = Decoding(max_new_tokens=8, temperature=0.0, top_p=1.0, seed=0)


@pytest.fixture
def chat(command, adapter_dir, monkeypatch) -> Callable[..., list[str]]:
    """What a conversation prints after each line that is typed, the commands' help first."""

    def run(*lines: str | BaseException) -> list[str]:
        typed = iter(lines)

        def read(prompt: str) -> str:
            print("\x00", end="")
            line = next(typed, EOFError())
            if isinstance(line, BaseException):
                raise line
            return line

        monkeypatch.setattr(builtins, "input", read)
        result = command("chat", "--adapter", adapter_dir, "--max-new-tokens", 8)
        assert (result.code, result.err) == (0, "")
        return [part.strip() for part in result.out.split("\x00")]

    return run


@pytest.fixture
def responder(adapter_dir) -> Responder:
    return load(adapter_dir, None, 1.0, GREEDY)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_the_model_sees_the_whole_conversation(chat, responder):
    first = responder.answer([user("hi")])
    history = [user("hi"), {"role": "assistant", "content": first}]
    second = responder.answer([*history, user("more")])
    assert second != responder.answer([user("more")])
    _, *answers, _ = chat("hi", "more", "/reset", "more")
    assert answers == [first, second, "", responder.answer([user("more")])]


def test_base_answers_the_last_message_outside_the_conversation(chat, responder):
    first = responder.answer([user("hi")])
    history = [user("hi"), {"role": "assistant", "content": first}]
    _, hi, base, more, _ = chat("hi", "/base", "more")
    assert (hi, base) == (first, responder.answer([user("hi")], base=True))
    assert more == responder.answer([*history, user("more")])


def test_strength(chat, responder):
    _, _, hi, *_ = chat("/strength 0", "hi")
    assert hi == responder.answer([user("hi")], base=True)
    _, _, hi, *_ = chat("/strength 1", "hi")
    assert hi == responder.answer([user("hi")])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/strength much", "needs a number"),
        ("/strength -1", "at least 0"),
        ("/base", "no message yet"),
        ("/nonsense", "/reset "),
        ("x" * 300, "longer than the model's context of 256"),
    ],
)
def test_mistakes_do_not_end_the_conversation(chat, responder, line, message):
    _, answer, hi, _ = chat(line, "hi")
    assert message in answer
    assert hi == responder.answer([user("hi")])


def test_oldest_turns_are_forgotten_when_the_context_is_full(chat, responder):
    text = "x" * 60
    _, _, second, third, _ = chat(text, text, text)
    assert "forgotten" not in second
    assert third.startswith("(the context is full: the oldest ")


@pytest.mark.parametrize("end", ["/exit", EOFError(), KeyboardInterrupt()])
def test_leaving(chat, end):
    assert chat(end) == [COMMANDS, ""]


def test_an_interrupted_answer_is_forgotten(chat, responder, monkeypatch):
    answer, calls = Responder.answer, []

    def interrupted(self, *arguments, **options):
        calls.append(arguments)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return answer(self, *arguments, **options)

    monkeypatch.setattr(Responder, "answer", interrupted)
    _, stopped, hi, _ = chat("hi", "hi")
    assert "stopped" in stopped
    assert hi == answer(responder, [user("hi")])
