"""``excitor inspect``: what an adapter is, from its files alone; and what it does to a text, with its base model."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from excitor.arguments import check_writable
from excitor.cli.decode import Base, LoadIn4bit, LoadIn8bit, Strength, load_trained
from excitor.cli.see import trained_instruction
from excitor.errors import ExcitorError


if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase


EXAMPLES = """\b
Examples:
  excitor inspect runs/first
  excitor inspect runs/first --prompt "Name three rivers." --out diagnosis
  excitor inspect runs/first --text stories.txt --documents 50
  excitor inspect runs/captions --image photo.jpg --out diagnosis"""
DOCUMENTS = 20
TEXT_LENGTH = 512  # tokens in a document, at most: attention is kept as a table of tokens by tokens


def inspect(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that excitor train wrote.")],
    prompt: Annotated[str | None, typer.Option(help="Measure what the adapter does to this instruction.")] = None,
    verbatim: Annotated[
        bool, typer.Option("--verbatim", help="Take the prompt as it is, not in the adapter's template.")
    ] = False,
    text: Annotated[str | None, typer.Option(help="Measure on a file of text, instead of a prompt.")] = None,
    documents: Annotated[
        int | None, typer.Option(min=1, help=f"Most documents of that file; {DOCUMENTS} if not given.")
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(help="Show what this picture does, asked about with --prompt, or for what it was trained for."),
    ] = None,
    answer: Annotated[str | None, typer.Option(help="Answer about the picture; the model's own, if none.")] = None,
    base: Base = None,
    strength: Strength = 1.0,
    load_in_4bit: LoadIn4bit = None,
    load_in_8bit: LoadIn8bit = None,
    layer: Annotated[
        int | None, typer.Option(help="Layer to show token by token; the most shifted (--image: all) if none.")
    ] = None,
    head: Annotated[
        int | None, typer.Option(help="Query head to show; the most shifted (--image: all) if none.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the numbers as JSON, and pictures.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what an adapter is, what it does, and whether it looks healthy.

    Its configuration, parameters and gates are read from its files, without the base model. With --prompt or --text
    the base model is loaded in fp32 and measured: how far attention moves in each layer and head, how the prompts are
    used, how far keys and hidden states are from the base's. With --image, for an adapter that sees: which words the
    picture draws attention to, and which of its patches do so.
    """
    if prompt is not None and text is not None:
        raise ExcitorError("Give --prompt or --text, not both.")
    if image is not None and text is not None:
        raise ExcitorError("--image is asked about with --prompt, not with --text.")
    if prompt is not None and not prompt.strip():
        raise ExcitorError("--prompt is empty: there is nothing to measure on.")
    if answer is not None and not answer.strip():
        raise ExcitorError("--answer is empty: leave it out, and the model answers.")
    measured = any(given is not None for given in (prompt, text, image))
    _refuse_idle({"--verbatim": verbatim}, prompt is not None, "--prompt")
    _refuse_idle({"--documents": documents}, text is not None, "--text")
    _refuse_idle({"--answer": answer}, image is not None, "--image")
    measuring = {"--base": base, "--strength": strength != 1, "--layer": layer, "--head": head, "--out": out}
    measuring |= {"--load-in-4bit": load_in_4bit is not None, "--load-in-8bit": load_in_8bit is not None}
    _refuse_idle(measuring, measured, "--prompt, --text or --image")
    if out:
        check_writable(out)

    from rich.console import Console

    from excitor.diagnostics.doctor import diagnose
    from excitor.diagnostics.files import describe
    from excitor.diagnostics.signs import signs_of_measurement, signs_of_run
    from excitor.diagnostics.tables import (
        facts_table,
        findings_text,
        gates_table,
        measurement_table,
        moves_table,
        picture_table,
    )

    adapter = describe(directory)
    signs = signs_of_run(directory, adapter)
    views = [facts_table(adapter), gates_table(adapter["layers"])]
    if adapter["report"]:
        from excitor.evaluate.report import table

        views.append(table(adapter["report"]))
    if measured:
        image_processor = _image_processor(directory, image)
        if (
            image is None
            and not adapter["config"].get("num_prompts")
            and not adapter["config"].get("num_local_prompts")
        ):
            raise ExcitorError(
                f"{directory} has visual prompts alone: without a picture it does nothing. Give --image."
            )
        if out:
            out.mkdir(parents=True, exist_ok=True)
        model, tokenizer, template = load_trained(
            str(directory), base, strength, "float32", load_in_4bit, load_in_8bit
        )
        template = "verbatim" if verbatim else template
        if image is not None:
            from excitor.diagnostics.picture_inspection import LISTED, inspect_picture

            asked = prompt or trained_instruction(str(directory))
            inspection = inspect_picture(
                model, tokenizer, image_processor, image, asked, answer, template=template, layer=layer, head=head
            )
            views += [picture_table(inspection, LISTED)]
        else:
            from excitor.diagnostics.inspection import inspect_model

            if prompt is not None:
                chosen = _encode(prompt, tokenizer, template)
            else:
                chosen = _read(str(text), documents or DOCUMENTS, model, tokenizer)
            inspection = inspect_model(model, tokenizer, chosen, layer, head)
            if strength == 1:  # the run's own measures are those of the adapter as it was trained
                signs |= signs_of_measurement(inspection.measurement)
            views += [measurement_table(inspection.measurement), moves_table(inspection.attention, inspection.tokens)]
        adapter |= inspection.to_dict()
        if out:
            inspection.draw(out)
    findings = diagnose(signs)
    adapter["findings"] = [asdict(finding) for finding in findings]
    if out:
        (out / "inspection.json").write_text(json.dumps(adapter, indent=2) + "\n", encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(adapter))
        return
    console = Console(highlight=False)
    for view in (*views, findings_text(findings)):
        console.print(view)
    if out:
        console.print(f"Numbers and pictures are in {out}.")


def _refuse_idle(options: dict[str, object], used: bool, flags: str) -> None:
    """Refuse options that would do nothing, because there is nothing to measure on."""
    given = [name for name, value in options.items() if value is not None and value is not False]
    if given and not used:
        raise ExcitorError(f"{given[0]} belongs to what is measured: give {flags} too.")


def _image_processor(directory: Path, image: Path | None) -> Any:
    """Of the encoder that an adapter sees with, once the picture is known to be one; None without a picture."""
    if image is None:
        return None

    from excitor.vision.images import load_image
    from excitor.vision.inputs import read_image_processor
    from excitor.vision.loading import read_sight

    sight = read_sight(directory)
    load_image(image)
    return read_image_processor(str(sight.vision_model))


def _encode(prompt: str, tokenizer: "PreTrainedTokenizerBase", template: str) -> list[list[int]]:
    from excitor.data.encoding import encode_prompt

    return [encode_prompt([{"role": "user", "content": prompt}], tokenizer, template)]


def _read(path: str, documents: int, model: "PeftModel", tokenizer: "PreTrainedTokenizerBase") -> list[list[int]]:
    from excitor.data.text import read_text

    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or TEXT_LENGTH
    length = min(TEXT_LENGTH, context)
    return read_text([path], tokenizer, max_length=length, max_documents=documents)["input_ids"][:]
