"""Everything an evaluation is told: the flags of ``excitor eval`` and the keys of its YAML file."""

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from excitor.arguments import Arguments, bits_faults, flag
from excitor.evaluate.bars import BARS


PRECISIONS = ("auto", "fp32", "bf16", "fp16")
# Options by how they start, and the one without which they would do nothing.
PARTS_OF = {
    "mmlu_": "mmlu",
    "scienceqa_": "scienceqa",
    "task_": "tasks",
    "max_new_tokens": "replies",
    "images": "captions",
}


@dataclass
class EvalArguments(Arguments):
    """The arguments of :func:`excitor.evaluate.run.evaluate`; each is described in its field's ``help``."""

    adapter: list[str] = field(
        default_factory=list,
        metadata={"help": "Adapter of any PEFT method: a folder or a hub id. Several share one copy of the base."},
    )
    model: str | None = field(
        default=None,
        metadata={"help": "A merged or fully fine-tuned model; compared with --base, or measured alone without."},
    )
    base: str | None = field(
        default=None, metadata={"help": "The model before fine-tuning; an adapter names its own if not given."}
    )
    out: str = field(default="evaluation", metadata={"help": "Folder for the results; complete tasks are kept."})
    overwrite: bool = field(default=False, metadata={"help": "Measure everything again, whatever --out holds."})

    retain: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Text that is not instructions, to measure forgetting on, each file a domain; if not given, the "
            "base writes some."
        },
    )
    retain_documents: int = field(default=100, metadata={"help": "How many documents of each --retain to measure."})
    data: list[str] = field(
        default_factory=list, metadata={"help": "Instructions that were not trained on, to measure what was learned."}
    )
    template: str = field(
        default="auto", metadata={"help": "How a row becomes text: as in training, if an adapter says so, or auto."}
    )
    max_length: int | None = field(
        default=None,
        metadata={"help": "Tokens in a document or row. When not given, the model's context, at most 1024."},
    )

    replies: bool = field(
        default=False, metadata={"help": "Answer --data too: exact match, token F1, and a page to read side by side."}
    )
    max_new_tokens: int = field(default=128, metadata={"help": "Longest of these replies, in tokens."})
    mmlu: str | None = field(
        default=None, metadata={"help": "MMLU: a folder with the original CSV files, or a data set of the hub."}
    )
    mmlu_split: str = field(default="test", metadata={"help": "Split of MMLU: test or val."})
    mmlu_topics: list[str] = field(
        default_factory=list, metadata={"help": "Topics of MMLU, such as astronomy; all when not given."}
    )
    mmlu_shots: int = field(default=5, metadata={"help": "Answered examples in front of each question of MMLU."})
    scienceqa: str | None = field(
        default=None, metadata={"help": "ScienceQA: a folder with problems.json and pid_splits.json."}
    )
    scienceqa_split: str = field(default="test", metadata={"help": "Split of ScienceQA."})
    scienceqa_format: str = field(
        default="QCM-A", metadata={"help": "Where the answer stands in a reply to ScienceQA: QCM-A, QCM-ALE, QCM-LEA."}
    )
    scienceqa_shots: int = field(default=0, metadata={"help": "Answered examples in front of each question of it."})
    scienceqa_captions: bool = field(
        default=False, metadata={"help": "Ask its questions with an image too, a caption standing for the image."}
    )
    scienceqa_images: bool = field(
        default=False, metadata={"help": "Ask its questions with an image too, and show the image."}
    )
    captions: str | None = field(
        default=None,
        metadata={"help": "Reference captions, in COCO's layouts or as rows; the pictures are captioned and scored."},
    )
    images: list[str] = field(
        default_factory=list, metadata={"help": "Folder with these pictures; that of --captions when not given."}
    )
    tasks: list[str] = field(
        default_factory=list,
        metadata={"help": "Tasks of lm-evaluation-harness, such as arc_easy,hellaswag; needs excitor[eval]."},
    )
    task_path: str | None = field(
        default=None, metadata={"help": "A folder with tasks of one's own for lm-evaluation-harness."}
    )
    task_limit: int | None = field(
        default=None, metadata={"help": "Documents of each of these tasks, at most; all when not given."}
    )
    task_chat: bool = field(
        default=False, metadata={"help": "Render the prompts of these tasks by --template, as instructions."}
    )

    update_card: bool = field(
        default=False, metadata={"help": "Put the result into the README.md of each --adapter that is a folder."}
    )
    batch_size: int = field(default=16, metadata={"help": "Documents, rows or questions in a batch, at most."})
    precision: str = field(
        default="auto", metadata={"help": f"{', '.join(PRECISIONS)}; auto is how the base is stored."}
    )
    load_in_4bit: bool | None = field(
        default=None, metadata={"help": "Load models in 4 bits (NF4); as the adapters were trained if not given."}
    )
    load_in_8bit: bool | None = field(
        default=None, metadata={"help": "Load models in 8 bits (LLM.int8); likewise. Both need excitor[quantised]."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of the text that the base writes."})

    max_forgetting: float | None = field(default=None, metadata={"help": BARS["max_forgetting"].help})
    max_kl: float | None = field(default=None, metadata={"help": BARS["max_kl"].help})
    min_gain: float | None = field(default=None, metadata={"help": BARS["min_gain"].help})
    max_mmlu_drop: float | None = field(default=None, metadata={"help": BARS["max_mmlu_drop"].help})
    max_scienceqa_drop: float | None = field(default=None, metadata={"help": BARS["max_scienceqa_drop"].help})

    @property
    def command(self) -> str:
        """The command line that says the same."""
        words = ["excitor", "eval"]
        for name, value in self._given().items():
            values = [] if value is True else value if isinstance(value, list) else [value]
            words += [word for one in values for word in (flag(name), str(one))] or [flag(name)]
        return shlex.join(words)

    @property
    def limits(self) -> dict[str, float]:
        """The bars that were given, by name."""
        return {name: limit for name in BARS if (limit := getattr(self, name)) is not None}

    @property
    def compares(self) -> bool:
        """Whether there is a base to compare with."""
        return bool(self.adapter or self.base)

    def _given(self) -> dict[str, Any]:
        """What is not as by default."""
        defaults = EvalArguments().to_dict()
        return {name: value for name, value in self.to_dict().items() if value != defaults[name]}

    def _faults(self) -> Iterator[str]:
        if not self.adapter and not self.model:
            yield "There is nothing to measure: give --adapter or --model."
        yield from self._at_least(1, "retain_documents", "batch_size", "max_new_tokens", "task_limit")
        yield from self._at_least(2, "max_length")
        if self.precision not in PRECISIONS:
            yield f"--precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}."
        yield from self._is_seed()
        yield from self._is_folder("out")
        if (Path(self.out) / "adapter_config.json").exists():
            yield f"--out {self.out} holds an adapter, and its README.md would be replaced: choose another folder."
        yield from bits_faults(self.load_in_4bit, self.load_in_8bit)
        for name, limit in self.limits.items():
            bar = BARS[name]
            if not math.isfinite(limit):
                yield f"{bar.flag} must be a number, got {limit}."
            elif name == "max_kl" and limit < 0:
                yield f"{bar.flag} must be at least 0, which no KL is below, got {limit}."
            if not self.compares:
                yield f"{bar.flag} is about a change, and --model alone has none: give --base."
            if bar.needs and not getattr(self, bar.needs):
                yield f"{bar.flag} needs --{bar.needs}."
        for name in self._given():
            whole = next((whole for start, whole in PARTS_OF.items() if name.startswith(start)), None)
            if whole and not getattr(self, whole):
                yield f"{flag(name)} needs {flag(whole)}."
        if self.replies and not self.data:
            yield "--replies needs --data."
        if self.scienceqa_captions and self.scienceqa_images:
            yield "--scienceqa-captions stand for the images that --scienceqa-images shows: give one of the two."
        for name in ("captions", "scienceqa_images"):
            if getattr(self, name) and not self.adapter:
                yield f"{flag(name)} needs an --adapter that was trained on pictures."
        by = (self.retain, self.data, self.mmlu, self.scienceqa, self.tasks)
        if self.model and not self.compares and not any(by):
            yield "There is nothing to measure --model by: give --retain, --data or --mmlu, or compare with a --base."
