"""Everything a comparison is told: the flags of ``excitor compare``. Imports nothing heavy."""

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from excitor.arguments import Arguments, flag


# Options that take the place of what a suite says, and those of them that go to its training.
OF_SUITE = (
    *("model", "data", "retain", "test", "mmlu", "match", "target", "baseline"),
    *("seeds", "rates", "widen", "points", "strengths"),
)
OF_TRAINING = ("steps", "batch_size", "max_length", "precision", "eval_rows")


@dataclass
class CompareArguments(Arguments):
    """The arguments of :func:`excitor.compare.compare.run_comparison`."""

    suite: str | None = field(
        default=None, metadata={"help": "A folder with a suite.yaml, or the name of one in experiments/."}
    )
    out: str | None = field(
        default=None,
        metadata={"help": "Folder for runs and report; what it holds is not run again. results/SUITE if left out."},
    )
    methods: list[str] = field(
        default_factory=list,
        metadata={"help": "Methods: lora (all its variants), lora/q-v, or several with commas. All if left out."},
    )
    jobs: int = field(default=1, metadata={"help": "Runs at a time, each on one thread."})
    report_only: bool = field(default=False, metadata={"help": "Run nothing; write the report of what --out holds."})
    dry_run: bool = field(
        default=False, metadata={"help": "Run nothing; show methods, their sizes and what is missing."}
    )
    files: str | None = field(
        default=None, metadata={"help": "The folder that {files} stands for in the paths of a suite."}
    )

    model: str | None = field(default=None, metadata={"help": "Base model, in place of the suite's."})
    data: list[str] = field(default_factory=list, metadata={"help": "Instructions, as excitor train reads them."})
    retain: list[str] = field(
        default_factory=list, metadata={"help": "Text that is not instructions, to measure forgetting on."}
    )
    test: list[str] = field(
        default_factory=list, metadata={"help": "Instructions to answer afterwards, for exact match."}
    )
    mmlu: str | None = field(default=None, metadata={"help": "MMLU: a folder of CSV files or a data set of the hub."})
    steps: int | None = field(default=None, metadata={"help": "Optimizer steps of a run; 500 if nothing says."})
    batch_size: int | None = field(default=None, metadata={"help": "Examples in a step; 16 if nothing says."})
    max_length: int | None = field(default=None, metadata={"help": "Tokens in an example or document."})
    eval_rows: int | None = field(
        default=None, metadata={"help": "Rows held out; half of them choose learning rates."}
    )
    precision: str | None = field(
        default=None, metadata={"help": "fp32, bf16 or fp16; what the hardware has if not given."}
    )
    seeds: int | None = field(default=None, metadata={"help": "Number of seeds, from 0; 5 if nothing says."})
    rates: list[str] = field(
        default_factory=list,
        metadata={"help": "Learning rates to choose from, as 1e-3,1e-2; 3e-4 to 3e-2 if not given."},
    )
    widen: int | None = field(
        default=None,
        metadata={"help": "How often to try one more rate where a method does best with the last; 2 if nothing says."},
    )
    points: int | None = field(default=None, metadata={"help": "Points of the learning-forgetting curve of a run."})
    strengths: list[str] = field(
        default_factory=list,
        metadata={"help": "Measure finished adapters at these factors of their effect, too, as 0.5,2."},
    )
    baseline: str | None = field(default=None, metadata={"help": "The method that all others are compared with."})
    match: str | None = field(
        default=None,
        metadata={
            "help": "params, flops or time gives every method the size at which it has as many trainable parameters, "
            "operations per token or seconds per step as --target; none leaves them as they are."
        },
    )
    target: str | None = field(
        default=None, metadata={"help": "What to match: a method, or a number of parameters or operations per token."}
    )

    @property
    def folder(self) -> Path:
        """Where runs and report go."""
        name = Path(self.suite).name if self.suite else "compare-" + Path(str(self.model)).name
        return Path(self.out or Path("results") / name)

    @property
    def command(self) -> str:
        """The command line that says the same."""
        defaults = CompareArguments().to_dict()
        words = ["excitor", "compare"]
        for name, value in self.to_dict().items():
            if value == defaults[name] or name in ("report_only", "dry_run", "jobs"):
                continue
            for one in value if isinstance(value, list) else [value]:
                words += [flag(name), str(one)]
        return shlex.join(words)

    def _faults(self) -> Iterator[str]:
        if self.report_only and not (self.suite or self.model or self.out):
            yield "There is nothing to report on: name --suite, or the folder of a comparison as --out."
        if not self.suite and not self.model and not self.report_only:
            yield "There is nothing to compare on: give --suite, or --model, --data and --retain."
        yield from self._at_least(1, "jobs", "steps", "batch_size", "max_length", "seeds", "points")
        yield from self._at_least(2, "eval_rows")
        yield from self._at_least(0, "widen")
        for name, values in (("--rates", self.rates), ("--strengths", self.strengths)):
            for value in several(values):
                if not _is_number(value):
                    yield f"{name} must be numbers, got {value!r}."
        if self.report_only and self.dry_run:
            yield "--report-only and --dry-run exclude each other."
        yield from self._is_folder("out")


def options_of(command: str) -> set[tuple[str, str]]:
    """Flags and values of a command line that :attr:`CompareArguments.command` wrote."""
    words = shlex.split(command)[2:]
    return set(zip(words[::2], words[1::2], strict=True))


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def several(values: list[str]) -> list[str]:
    """What a list option was given: several times, several with commas, or both."""
    return [part.strip() for value in values for part in value.split(",")]
