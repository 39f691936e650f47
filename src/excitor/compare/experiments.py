"""An experiment: a folder with the configuration of a PEFT method, and what it changes in training."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from peft import PeftConfig
from transformers import PretrainedConfig

from excitor.errors import ExcitorError
from excitor.evaluate.json_file import read_json
from excitor.preservation.weights import Weights
from excitor.train.method import make_method


ADAPTER_FILE = "adapter_config.json"
TRAINING_FILE = "training_params.json"

# What an experiment may change in training: how it holds on to the base, which every method can. What makes
# comparisons fair (data, their order, steps, batches, the grid of learning rates) is the suite's alone.
OVERRIDES = (
    "keep",
    "max_forgetting",
    *(f"{name}_weight" for name in Weights.__dataclass_fields__),
    *("replay_documents", "replay_length", "replay_batch_size", "replay_every"),
)
UNTRAINED = "untrained"

CATALOGUE = Path(__file__).parent / "methods"


@dataclass(frozen=True)
class Experiment:
    """A method with its settings.

    Attributes:
        name: ``method/variant``, as its folders are called.
        adapter: fields of ``adapter_config.json``; None where the base itself is measured.
        train: fields of :class:`excitor.train.arguments.TrainArguments` that it changes.
        matched: whether its size was solved for a budget, and hit it.
    """

    name: str
    adapter: dict[str, Any] | None
    train: dict[str, Any] = field(default_factory=dict)
    matched: bool | None = None

    def resolve(self, config: PretrainedConfig) -> "Experiment":
        """This experiment on a certain base: ``"{num_hidden_layers}"`` and the like become its numbers.

        Raises:
            ExcitorError: The base's configuration has no such number.
        """
        if self.adapter is None:
            return self
        text = config.get_text_config()
        adapter = {name: _fill(value, text, self.name) for name, value in self.adapter.items()}
        return replace(self, adapter=adapter)

    def method(self) -> PeftConfig:
        """The configuration of its method, which is trained.

        Raises:
            ExcitorError: There is no such method, or it has no such field or value.
        """
        return make_method(cast(dict[str, Any], self.adapter), _source(self))


@contextmanager
def fitted(experiment: Experiment) -> Iterator[None]:
    """Within it an error of a method that does not fit a base becomes one that names the experiment.

    Raises:
        ExcitorError: There was such an error.
    """
    source = _source(experiment)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of layers that PEFT's LN tuning does not know: any will do
            yield
    except (ValueError, TypeError) as error:  # ExcitorError is one: PEFT's own methods raise these
        message = str(error) if str(error).startswith(source) else f"{source} does not fit the base: {error}"
        raise ExcitorError(f"{message} Leave it out (--methods), or give it a folder of its own.") from error


def read_experiments(folder: Path) -> dict[str, Experiment]:
    """The experiments in the folders ``method/variant`` below ``folder``, by name.

    Raises:
        ExcitorError: A file in them is damaged, is not known, or sets what is not an experiment's to set.
    """
    found = [path for path in sorted(folder.glob("*/*")) if path.is_dir() and any(path.glob("*.json"))]
    experiments = [_read(path) for path in found]
    return {experiment.name: experiment for experiment in experiments}


def choose(known: dict[str, Experiment], wanted: list[str]) -> list[Experiment]:
    """The experiments of these names, each once; a method alone (``lora``) is all of its variants.

    Raises:
        ExcitorError: There is none of a name.
    """
    chosen: dict[str, Experiment] = {}
    for name in wanted:
        matching = {key: one for key, one in known.items() if key == name or key.partition("/")[0] == name}
        if not matching:
            raise ExcitorError(f"There is no method {name!r}; there are {', '.join(known)}.")
        chosen |= matching
    return list(chosen.values())


def _source(experiment: Experiment) -> str:
    return f"The {experiment.name} of this comparison"


def _read(folder: Path) -> Experiment:
    for file in folder.glob("*.json"):
        if file.name not in (ADAPTER_FILE, TRAINING_FILE):
            raise ExcitorError(
                f"{file} is not read: an experiment is {ADAPTER_FILE} and, if need be, {TRAINING_FILE}."
            )
    name = f"{folder.parent.name}/{folder.name}"
    given = _read_object(folder / TRAINING_FILE) if (folder / TRAINING_FILE).exists() else {}
    untrained = given.pop(UNTRAINED, False)
    for key in given:
        if key not in OVERRIDES:
            raise ExcitorError(
                f"{folder / TRAINING_FILE} sets {key!r}, which would make the comparison unfair or means nothing. An "
                f"experiment may set {', '.join(OVERRIDES)}, and {UNTRAINED}; all else is in the suite's description."
            )
    if not (folder / ADAPTER_FILE).exists():
        if not untrained:
            raise ExcitorError(
                f'{folder} has no {ADAPTER_FILE}. To measure the base write {{"{UNTRAINED}": true}} into '
                f'{TRAINING_FILE}; full fine-tuning is {{"peft_type": "LN_TUNING"}} with all layers as target_modules.'
            )
        return Experiment(name, None)
    adapter = _read_object(folder / ADAPTER_FILE)
    if untrained or "peft_type" not in adapter:
        raise ExcitorError(
            f"{folder / ADAPTER_FILE} names no peft_type."
            if not untrained
            else f"{folder} is to stay untrained and has an {ADAPTER_FILE}: leave out one of the two."
        )
    return Experiment(name, adapter, given)


def _read_object(path: Path) -> dict[str, Any]:
    values = read_json(path)
    if not isinstance(values, dict):
        raise ExcitorError(f"{path} must hold a JSON object like {{...}}, got {type(values).__name__}.")
    return values


def _fill(value: Any, config: PretrainedConfig, name: str) -> Any:
    if not (isinstance(value, str) and value.startswith("{") and value.endswith("}")):
        return value
    number = getattr(config, value[1:-1], None)
    if number is None:
        raise ExcitorError(f"{name} needs the base's {value[1:-1]}, which {config.model_type} does not have.")
    return number
