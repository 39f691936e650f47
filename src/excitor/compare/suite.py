"""A suite: what is the same for all methods, read from ``suite.yaml``, and which methods there are."""

import typing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from excitor.compare.arguments import OF_SUITE, OF_TRAINING, CompareArguments, several
from excitor.compare.equalise import TOLERANCES
from excitor.compare.experiments import CATALOGUE, OVERRIDES, Experiment, choose, read_experiments
from excitor.compare.material import WORLD, Files, Material, World
from excitor.compare.measures import MEASURES
from excitor.errors import ExcitorError
from excitor.mini.lessons import EXPOSURES
from excitor.option_file import as_type, read_options
from excitor.train.arguments import TrainArguments


SUITE_FILE = "suite.yaml"
SUITES = Path("experiments")
PLACE = "{files}"  # in front of paths: the folder that --files names

# Fields of TrainArguments that a suite sets for all methods alike.
SHARED = (
    *("steps", "batch_size", "gradient_accumulation", "scheduler", "warmup_ratio", "weight_decay", "precision"),
    *("gradient_checkpointing", "load_in_4bit", "load_in_8bit", "template", "max_length", "packing"),
    *("eval_rows", "retain_documents"),
)
DEFAULTS = {"steps": 500, "batch_size": 16}


@dataclass
class Suite:
    """The keys of ``suite.yaml``; docs/compare.md describes them.

    Raises:
        ExcitorError: They contradict each other, or a value is out of range.
    """

    title: str = "A comparison of fine-tuning methods"
    about: str = ""
    methods: list[str] = field(default_factory=list)
    model: str = WORLD
    data: list[str] = field(default_factory=list)
    retain: list[str] = field(default_factory=list)
    replay: list[str] = field(default_factory=list)
    test: list[str] = field(default_factory=list)
    score: str = "words"
    max_new_tokens: int = 128
    mmlu: str | None = None
    mmlu_split: str = "test"
    mmlu_shots: int = 5
    wrong_share: float = 0.0
    exposures: int = EXPOSURES
    train: dict = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: list(range(5)))
    tuning_seed: int = 100
    rates: list[float] = field(default_factory=lambda: [3e-4, 1e-3, 3e-3, 1e-2, 3e-2])
    rate_noise: float = 0.01
    widen: int = 2
    points: int = 6
    strengths: list[float] = field(default_factory=list)
    subject: str = "excitor/default"
    baseline: str = "lora/q-v"
    ranked: list[str] = field(default_factory=lambda: ["gain", "forgetting"])
    reference_forgetting: float = 1.0
    match: str = "none"
    target: str = ""

    def check(self) -> None:
        """Check what can be checked without reading a file but those of experiments."""
        faults = []
        if self.model != WORLD and not (self.data and self.retain):
            faults.append("a model needs data (instructions) and retain (text that is not instructions)")
        if self.model == WORLD and (self.data or self.retain or self.test or self.mmlu):
            faults.append(f"data, retain, test and mmlu are those of a model; {WORLD!r} has its own")
        if not self.seeds or not self.rates or min(self.rates) <= 0:
            faults.append("seeds and rates must not be empty, and rates must be above 0")
        if self.widen < 0:
            faults.append(f"widen must be at least 0, got {self.widen}")
        if self.tuning_seed in self.seeds:
            faults.append(f"tuning_seed {self.tuning_seed} is among the seeds that are reported")
        if any(len(set(values)) < len(values) for values in (self.seeds, self.rates, self.strengths)):
            faults.append("a seed, a rate or a strength is given twice")
        if any(strength <= 0 or strength == 1 for strength in self.strengths):
            faults.append(f"strengths must be above 0 and other than 1, as trained, got {self.strengths}")
        if self.points < 1:
            faults.append(f"points must be at least 1, got {self.points}")
        if self.score not in ("words", "number"):
            faults.append(f"score must be words or number, got {self.score!r}")
        if self.match not in ("none", *TOLERANCES):
            faults.append(f"match must be one of none, {', '.join(TOLERANCES)}, got {self.match!r}")
        elif self.match != "none" and not self.target:
            number = "" if self.match == "time" else ", or a number"
            faults.append(f"match: {self.match} needs a target: a method{number}")
        if self.match == "time" and (self.train.get("load_in_4bit") or self.train.get("load_in_8bit")):
            faults.append("match: time times models with random weights, which cannot be loaded in 4 or 8 bits")
        if self.target and self.match == "none":
            faults.append(f"target needs match: {', '.join(TOLERANCES)}")
        faults += [f"ranked: there is no measure {name!r}" for name in self.ranked if name not in MEASURES]
        faults += self._training_faults()
        if faults:
            raise ExcitorError("The suite cannot be run: " + "; ".join(faults) + ".")

    def _training_faults(self) -> list[str]:
        hints = typing.get_type_hints(TrainArguments)
        faults = []
        for name, value in self.train.items():
            if name in OVERRIDES:
                faults.append(f"train: {name} belongs to an experiment (its training_params.json)")
            elif name not in SHARED:
                faults.append(f"train: {name} cannot be set; a suite sets {', '.join(SHARED)}")
            else:
                self.train[name] = as_type(value, hints[name], f"train: {name}")
        return faults

    @property
    def training(self) -> dict[str, Any]:
        """What training is told, whatever the method."""
        return DEFAULTS | self.train

    def material(self) -> Material:
        """What methods are compared on."""
        if self.model == WORLD:
            return World(self.wrong_share, self.exposures)
        options = {"replay": self.replay} if self.replay else {}
        names = ("model", "data", "retain", "test", "score", "max_new_tokens", "mmlu", "mmlu_split", "mmlu_shots")
        return Files(**{name: getattr(self, name) for name in names}, options=options)

    def with_files(self, folder: str | None) -> "Suite":
        """The suite with ``{files}`` in its paths replaced.

        Raises:
            ExcitorError: A path has it, and there is no folder to put in its place.
        """

        def place(value: Any) -> Any:
            if isinstance(value, list):
                return [place(one) for one in value]
            if not isinstance(value, str) or PLACE not in value:
                return value
            if folder is None:
                raise ExcitorError(f"This suite reads {value}: say with --files which folder {PLACE} is.")
            return value.replace(PLACE, folder)

        paths = ("model", "data", "retain", "replay", "test", "mmlu")
        return replace(self, **{name: place(getattr(self, name)) for name in paths})


def find_suite(name: str) -> Path:
    """The folder of a suite: itself, or one of that name in ``experiments``.

    Raises:
        ExcitorError: There is none.
    """
    for folder in (Path(name), SUITES / name):
        if (folder / SUITE_FILE).exists():
            return folder
    known = ", ".join(sorted(path.parent.name for path in SUITES.glob(f"*/{SUITE_FILE}"))) or "none"
    raise ExcitorError(f"There is no suite {name!r}: no {SUITE_FILE} in {name} or {SUITES / name}. Here are: {known}.")


def read_suite(folder: Path) -> Suite:
    """The description in a suite's folder.

    Raises:
        ExcitorError: It has a key that is not known, or a value that cannot be.
    """
    return Suite(**read_options(folder / SUITE_FILE, Suite, "The suite"))


def experiments_of(suite: Suite, folder: Path | None, only: list[str]) -> list[Experiment]:
    """The experiments of a suite: those of the catalogue that it names, and all in its own folder.

    Args:
        suite: The suite.
        folder: Its own; an experiment there stands for one of the same name in the catalogue.
        only: Names to keep of these; any of the catalogue can be named. All when there are none.

    Raises:
        ExcitorError: One does not exist, or the baseline or the subject is not among them.
    """
    own = read_experiments(folder) if folder else {}
    known = read_experiments(CATALOGUE) | own
    everything = choose(known, [*(suite.methods or known), *own])
    _must_hold(everything, "subject", suite.subject)
    chosen = choose(known, only) if only else everything
    _must_hold(chosen, "baseline", suite.baseline)
    return chosen


def _must_hold(experiments: list[Experiment], role: str, name: str) -> None:
    names = [experiment.name for experiment in experiments]
    if name not in names:
        raise ExcitorError(
            f"The {role} {name!r} is not among the methods {', '.join(names)}: add it, or name another {role}."
        )


def resolve(arguments: CompareArguments) -> tuple[Suite, list[Experiment]]:
    """The suite that is meant, with what the options change, and its experiments.

    Raises:
        ExcitorError: It does not exist or cannot be run.
    """
    arguments.check()
    folder = find_suite(arguments.suite) if arguments.suite else None
    suite = read_suite(folder) if folder else Suite(title=f"Fine-tuning {Path(str(arguments.model)).name}")
    changes: dict[str, Any] = {name: value for name in OF_SUITE if (value := getattr(arguments, name))}
    if changes.get("match") == "none" and "target" not in changes:
        changes["target"] = ""  # the suite's own, for the match that it had
    if "seeds" in changes:
        changes["seeds"] = list(range(changes["seeds"]))
    for name in ("rates", "strengths"):
        if name in changes:
            changes[name] = [float(one) for one in several(changes[name])]
    training = {name: value for name in OF_TRAINING if (value := getattr(arguments, name)) is not None}
    suite = replace(suite, **changes, train=suite.train | training)
    suite.check()
    return suite.with_files(arguments.files), experiments_of(suite, folder, several(arguments.methods))
