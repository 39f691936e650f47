"""What ``caption`` and ``ask`` share: a loaded adapter that sees."""

from collections.abc import Sequence
from typing import Annotated

import typer

from excitor.cli.decode import load_trained
from excitor.run_record import read_run
from excitor.vision.arguments import CAPTION_INSTRUCTION


BatchSize = Annotated[int, typer.Option(min=1, help="Pictures side by side, at most.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object for each answer.")]


def see(
    questions: Sequence[tuple[Sequence[str], str]],
    adapter: str,
    base: str | None,
    strength: float,
    max_new_tokens: int,
    batch_size: int,
    load_in_4bit: bool | None,
    load_in_8bit: bool | None,
) -> list[str]:
    """Answers to questions about pictures; see :func:`excitor.vision.answer.answer_about`.

    Raises:
        ExcitorError: The adapter was not trained on pictures, or something else that the user can mend.
    """
    from excitor.vision.answer import answer_about
    from excitor.vision.images import check_images
    from excitor.vision.inputs import read_image_processor
    from excitor.vision.loading import read_sight

    sight = read_sight(adapter)
    check_images({path: "the command line" for paths, _ in questions for path in paths})
    image_processor = read_image_processor(str(sight.vision_model))
    model, tokenizer, template = load_trained(
        adapter, base, strength, load_in_4bit=load_in_4bit, load_in_8bit=load_in_8bit
    )
    return answer_about(
        model,
        tokenizer,
        image_processor,
        questions,
        template=template,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
    )


def trained_instruction(adapter: str) -> str:
    """What an adapter was asked for captions with."""
    return read_run(adapter).get("caption_instruction", CAPTION_INSTRUCTION)
