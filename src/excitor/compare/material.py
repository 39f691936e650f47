"""What methods are compared on: the embedded world, or files of one's own."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from datasets import Dataset
from peft import PeftModel
from rich.console import Console
from rich.progress import Progress
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from excitor.compare.numbers import number_match
from excitor.data import encode_examples, load_examples
from excitor.environment import file_digest, hash_files
from excitor.errors import ExcitorError
from excitor.evaluate.task import Item, Subject, Task
from excitor.mini import BASE_DIR
from excitor.mini.lessons import EXPOSURES, Lessons, make_lessons, write_lessons
from excitor.mini.pages import retain_pages
from excitor.mini.trial import measure_knowledge
from excitor.mini.world import make_world
from excitor.preservation.replay import read_replay
from excitor.train.prepare import Job, read_tokenizer


WORLD = "world"
RETAIN_PAGES = 200
SHORT = 64  # tokens of a document that is read to see whether it can be
REPLAY_PAGES, REPLAY_SEED = 300, 1  # other pages than those that forgetting is measured on


class Material(Protocol):
    """Base, data, and what to ask afterwards."""

    @property
    def model(self) -> str:
        """Of the base: a folder or a hub id."""
        ...

    def describe(self) -> dict[str, Any]:
        """What results depend on, as JSON holds it."""
        ...

    def check(self) -> None:
        """Read what a run reads only after training, or only for some methods.

        Raises:
            ExcitorError: It cannot be used.
        """
        ...

    def write(self, folder: Path, seed: int) -> dict[str, Any]:
        """Make what is made; the fields of ``TrainArguments`` that say where everything is, ``replay`` included."""
        ...

    def held_out(self, job: Job, folder: Path, tuning: bool) -> Dataset:
        """Encoded rows that are not trained on: others for choosing learning rates than for what is reported."""
        ...

    def examine(
        self, model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, job: Job, seed: int
    ) -> dict[str, float]:
        """Shares by name, of a finished model."""
        ...


@dataclass(frozen=True)
class World:
    """The embedded world; a seed decides which half of it is taught, and what is taught wrongly.

    Attributes:
        wrong_share: share of the taught facts that are taught wrongly.
        exposures: rows about each of these.
    """

    wrong_share: float = 0.0
    exposures: int = EXPOSURES

    @property
    def model(self) -> str:
        """The embedded base."""
        return str(BASE_DIR)

    def describe(self) -> dict[str, Any]:
        """Its knobs and the base's weights."""
        weights = (BASE_DIR / "model.safetensors").read_bytes()
        return {"model": WORLD} | asdict(self) | {"base_sha256": hashlib.sha256(weights).hexdigest()}

    def check(self) -> None:
        """Nothing is read."""

    def write(self, folder: Path, seed: int) -> dict[str, Any]:
        """Lessons, the questions about the unseen half, pages to measure on and others to replay."""
        world, lessons = make_world(), self._lessons(seed)
        write_lessons(world, lessons, folder, RETAIN_PAGES)
        unseen = [question for name in ("unseen facts", "unseen lists") for question in lessons.tests[name]]
        _write_rows(folder / "unseen.jsonl", [{"instruction": each.text, "output": each.answer} for each in unseen])
        pages = retain_pages(world, REPLAY_PAGES, REPLAY_SEED)
        _write_rows(folder / "replay.jsonl", [{"text": page} for page in pages])
        return {
            "model": self.model,
            "data": [str(folder / "train.jsonl")],
            "eval_rows": 1,  # nearly every row is taught
            "retain": [str(folder / "retain.jsonl")],
            "retain_documents": RETAIN_PAGES,
            "replay": [str(folder / "replay.jsonl")],
        }

    def held_out(self, job: Job, folder: Path, tuning: bool) -> Dataset:
        """The right answers about the unseen half; another seed has another half."""
        rows = load_examples([str(folder / "unseen.jsonl")])
        return encode_examples(rows, job.tokenizer, max_length=job.arguments.max_length or 0).dataset

    def examine(
        self, model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, job: Job, seed: int
    ) -> dict[str, float]:
        """As in the experiment on beliefs."""
        return measure_knowledge(model, tokenizer, self._lessons(seed))

    def _lessons(self, seed: int) -> Lessons:
        return make_lessons(make_world(), seed, self.wrong_share, self.exposures)


@dataclass(frozen=True)
class Files:
    """A model and files.

    Attributes:
        model: folder or hub id.
        data: instructions, as ``excitor train`` reads them; a part is held out.
        retain: text that is not instructions.
        options: further fields of ``TrainArguments`` on the data, e.g. ``eval_rows``, ``max_length``, ``replay``.
        test: rows whose answers are compared with greedy replies.
        score: "words" (exact match) or "number" (the same final number).
        max_new_tokens: longest of these replies.
        mmlu: folder or data set of MMLU, with ``mmlu_split`` and ``mmlu_shots``.
    """

    model: str
    data: list[str]
    retain: list[str]
    options: Mapping[str, Any] = field(default_factory=dict)
    test: list[str] = field(default_factory=list)
    score: str = "words"
    max_new_tokens: int = 128
    mmlu: str | None = None
    mmlu_split: str = "test"
    mmlu_shots: int = 5

    def describe(self) -> dict[str, Any]:
        """Names and hashes."""
        replay = self.options.get("replay", [])
        files = [*self.data, *self.retain, *replay, *self.test, *([self.mmlu] if self.mmlu else [])]
        names: dict[str, Any] = {
            name: [Path(each).name for each in getattr(self, name)] for name in ("data", "retain", "test")
        }
        names["options"] = {**self.options, "replay": [Path(each).name for each in replay]}
        names |= {name: Path(path).name for name in ("model", "mmlu") if (path := getattr(self, name))}
        held = sorted(path for path in Path(self.model).glob("*") if path.is_file() and path.suffix != ".md")
        base = {path.name: file_digest(path) for path in held}
        return asdict(self) | names | {"files_sha256": hash_files(files), "base_sha256": base}

    def check(self) -> None:
        """Read the instructions, what is asked afterwards, and the text to replay.

        Raises:
            ExcitorError: A file or a row of it cannot be used.
        """
        load_examples(self.data)
        tokenizer = read_tokenizer(self.model)
        for task in (self._instructions("auto", 1), self._mmlu(1)):
            if task is not None:
                task.check(tokenizer)
        if replay := self.options.get("replay"):
            read_replay(replay, tokenizer, documents=1, length=SHORT)

    def write(self, folder: Path, seed: int) -> dict[str, Any]:
        """Nothing is made."""
        return {"model": self.model, "data": self.data, "retain": self.retain, **self.options}

    def held_out(self, job: Job, folder: Path, tuning: bool) -> Dataset:
        """Every other row of those held out: the even ones for learning rates, the odd ones for what is reported.

        Raises:
            ExcitorError: There are fewer than two.
        """
        rows = range(0 if tuning else 1, len(job.held_out), 2)
        if not rows:
            raise ExcitorError(
                f"{len(job.held_out)} row is held out, and two are needed: one to choose learning rates by, one to "
                "report. Raise eval_rows."
            )
        return job.held_out.select(rows)

    def examine(
        self, model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, job: Job, seed: int
    ) -> dict[str, float]:
        """Exact match or right numbers on ``test``, and accuracy on MMLU, where they are given."""
        measures: dict[str, float] = {}
        size = job.arguments.batch_size
        template = job.encoded.template if job.encoded.template != "verbatim" else "auto"
        if (task := self._instructions(template, size)) is not None:
            items = _answer(task, model, tokenizer)
            if self.score == "number":
                right = [number_match(item["reply"] or "", item["answer"]) for item in items]
                measures["number match"] = sum(right) / len(items)
            else:
                measures["exact match"] = sum(item["exact_match"] for item in items) / len(items)
        if (task := self._mmlu(size)) is not None:
            items = _answer(task, model, tokenizer)
            measures["mmlu"] = sum(item["correct"] for item in items) / len(items)
        return measures

    def _instructions(self, template: str, batch_size: int) -> Task | None:
        from excitor.evaluate.instructions import Instructions

        if not self.test:
            return None
        return Instructions(self.test, template=template, max_new_tokens=self.max_new_tokens, batch_size=batch_size)

    def _mmlu(self, batch_size: int) -> Task | None:
        from excitor.evaluate.mmlu.task import Mmlu

        if not self.mmlu:
            return None
        return Mmlu(self.mmlu, split=self.mmlu_split, shots=self.mmlu_shots, batch_size=batch_size)


def _answer(task: Task, model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase) -> list[Item]:
    task.check(tokenizer)
    subject = Subject("model", model, "default" if isinstance(model, PeftModel) else None)
    with Progress(console=Console(quiet=True)) as progress:
        return task.run([subject], tokenizer, progress)["model"]


def _write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
