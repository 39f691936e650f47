"""Which tasks an evaluation consists of, and what defines each of them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from excitor.data.sources import column_names, read_source
from excitor.environment import hash_files
from excitor.errors import ExcitorError
from excitor.evaluate.arguments import EvalArguments
from excitor.evaluate.forgetting import Forgetting
from excitor.evaluate.learned import Learned
from excitor.evaluate.subjects import Lineup, trained_template
from excitor.evaluate.task import Task
from excitor.run_record import read_run
from excitor.vision.arguments import CAPTION_INSTRUCTION
from excitor.vision.data.forms import COLUMNS


@dataclass(frozen=True)
class Planned:
    """A task that is to be done."""

    task: Task
    definition: dict[str, Any]
    """What its result depends on, as JSON holds it: where this is the same, the task need not be done again."""


def plan(arguments: EvalArguments, lineup: Lineup) -> list[Planned]:
    """The tasks that the arguments ask for; nothing is read yet.

    Raises:
        ExcitorError: The subjects cannot read documents of the wanted length or prompts beside replies of that length,
            or no template suits all of them.
    """
    return [_define(kind, options, arguments, lineup) for kind, options in _tasks(arguments, lineup)]


def _tasks(arguments: EvalArguments, lineup: Lineup) -> Iterator[tuple[type, dict[str, Any]]]:
    """Classes and what they are made with. Those that few evaluations need are imported when asked for."""
    size = {"batch_size": arguments.batch_size}
    text = {"max_length": lineup.length(arguments.max_length)}
    chat = {"template": trained_template(lineup.adapters) if arguments.template == "auto" else arguments.template}
    if arguments.retain or lineup.base:
        own = {"retain": arguments.retain, "documents": arguments.retain_documents, "seed": arguments.seed}
        yield Forgetting, own | text | size
    if arguments.data and lineup.sight:
        _refuse_pictures(arguments.data)
    if arguments.data:
        yield Learned, {"data": arguments.data} | text | chat | size
    if arguments.replies:
        from excitor.evaluate.instructions import Instructions

        if lineup.context is not None and arguments.max_new_tokens >= lineup.context:
            raise ExcitorError(
                f"--max-new-tokens {arguments.max_new_tokens} leaves no room for a prompt in the context of "
                f"{lineup.context} tokens: lower it."
            )
        own = {"data": arguments.data, "max_new_tokens": arguments.max_new_tokens}
        yield Instructions, own | chat | size
    if arguments.mmlu:
        from excitor.evaluate.mmlu.task import Mmlu

        own = {"source": arguments.mmlu, "split": arguments.mmlu_split, "shots": arguments.mmlu_shots}
        yield Mmlu, own | {"topics": arguments.mmlu_topics or None} | size
    if arguments.scienceqa:
        from excitor.evaluate.scienceqa_task import ScienceQA

        own = {"folder": arguments.scienceqa, "split": arguments.scienceqa_split}
        own |= {"format": arguments.scienceqa_format, "shots": arguments.scienceqa_shots, "seed": arguments.seed}
        own |= {"captions": arguments.scienceqa_captions}
        own |= {"vision_model": _encoder("--scienceqa-images", lineup)} if arguments.scienceqa_images else {}
        yield ScienceQA, own | chat | size
    if arguments.captions:
        from excitor.evaluate.captions.task import Captions

        own = {"annotations": arguments.captions, "images": arguments.images}
        own |= {"vision_model": _encoder("--captions", lineup), "instruction": _asked(lineup)}
        yield Captions, own | chat | size
    if arguments.tasks:
        from excitor.evaluate.harness import Harness

        names = [name for names in arguments.tasks for name in names.split(",")]
        own = {"tasks": names, "task_path": arguments.task_path, "limit": arguments.task_limit}
        yield Harness, own | {"template": chat["template"] if arguments.task_chat else None} | size


def _refuse_pictures(data: list[str]) -> None:
    """Answers to --data are measured on text: without their pictures they would look worse than they are."""
    for source in data:
        for name, rows in read_source(source):
            if named := sorted({*COLUMNS} & {*column_names(rows)}):
                raise ExcitorError(
                    f"--data {name} names pictures ({', '.join(named)}), which are not shown there: give --captions, "
                    "or hold rows out with --eval-rows of excitor train, whose report shows them."
                )


def _encoder(option: str, lineup: Lineup) -> str:
    if lineup.sight is None:
        raise ExcitorError(
            f"{option} needs an adapter that was trained on pictures; these were trained on text: "
            f"{', '.join(lineup.adapters)}."
        )
    return str(lineup.sight.vision_model)


def _asked(lineup: Lineup) -> str:
    """What the adapters were asked for captions with."""
    runs = [read_run(directory) for directory in lineup.adapters.values()]
    return next((run["caption_instruction"] for run in runs if "caption_instruction" in run), CAPTION_INSTRUCTION)


def _define(kind: type, options: dict[str, Any], arguments: EvalArguments, lineup: Lineup) -> Planned:
    files = [*options.get("retain", []), *options.get("data", [])]
    files += [options[name] for name in ("source", "folder", "task_path", "annotations") if options.get(name)]
    definition = {
        "options": {name: value for name, value in options.items() if name != "batch_size"},
        "files_sha256": hash_files(files),
        "subjects": {name: {"source": source, "files": _weights(source)} for name, source in lineup.sources.items()},
        "precision": arguments.precision,
    }
    if lineup.bits:
        definition["bits"] = lineup.bits
    return Planned(kind(**options), json.loads(json.dumps(definition)))


def _weights(source: str) -> dict[str, str]:
    """The weight files of a folder: base models are too large to be hashed."""
    states = {file.name: file.stat() for file in sorted(Path(source).glob("*.safetensors"))}
    return {name: f"{state.st_size} bytes, changed {state.st_mtime_ns}" for name, state in states.items()}
