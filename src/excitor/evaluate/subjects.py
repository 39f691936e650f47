"""Who is measured: the base, adapters on it, a tuned model; all of them checked before weights are loaded."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from excitor.checkpoint import CONFIG_FILE, attach_adapter, read_adapter_config
from excitor.errors import ExcitorError
from excitor.evaluate.arguments import EvalArguments
from excitor.evaluate.names import short_names
from excitor.evaluate.parallel import this_process
from excitor.evaluate.task import Subject
from excitor.precision import DTYPES
from excitor.quantised import check_bits, chosen_bits, load_base, weight_states
from excitor.run_record import read_run
from excitor.vision.configuration import ExcitorVisionConfig
from excitor.vision.loading import read_sight, sees, with_encoder


BASE = "base"
DEFAULT_MAX_LENGTH = 1024


@dataclass(frozen=True)
class Lineup:
    """Subjects that are known but not loaded."""

    base: str | None
    """The model before fine-tuning; None when a model is measured alone."""
    adapters: dict[str, str]
    """By name, folder or hub id."""
    models: dict[str, str]
    """Merged and fully fine-tuned ones."""
    tokenizer: PreTrainedTokenizerBase
    """The same for all: that of the first adapter or model that has one of its own, else the base's."""
    context: int | None
    """Tokens that all subjects can read; None where no configuration says."""
    bits: int | None = None
    """In how many bits models are loaded: 4, 8, or None for in full."""
    sight: ExcitorVisionConfig | None = None
    """Which vision encoder all adapters see with; None if they were trained on text."""

    @property
    def sources(self) -> dict[str, str]:
        """Where each subject comes from, the base first."""
        return ({BASE: self.base} if self.base else {}) | self.adapters | self.models

    def length(self, wanted: int | None) -> int:
        """Tokens in a document: as wanted, else as many as the subjects read, at most 1024.

        Raises:
            ExcitorError: The subjects cannot read that many.
        """
        if wanted is None:
            return min(self.context or DEFAULT_MAX_LENGTH, DEFAULT_MAX_LENGTH)
        if self.context is not None and wanted > self.context:
            raise ExcitorError(f"--max-length {wanted} is more than the {self.context} tokens of the context.")
        return wanted

    def load(self, precision: str) -> list[Subject]:
        """Load all subjects, the base first. Adapters share the base's weights.

        Args:
            precision: "auto" (as stored), "fp32", "bf16" or "fp16".

        Raises:
            ExcitorError: An adapter is damaged or does not fit the base.
        """
        subjects = []
        if self.base:
            base = _load(self.base, precision, self.bits)
            if self.sight:
                base = with_encoder(base, self.sight).eval()
            subjects.append(Subject(BASE, base))
            for name, directory in self.adapters.items():
                adapted = attach_adapter(_twin(base), directory).to(base.device).eval()
                subjects.append(Subject(name, adapted, "default"))
        return subjects + [Subject(name, _load(source, precision, self.bits)) for name, source in self.models.items()]


def read_lineup(arguments: EvalArguments) -> Lineup:
    """Find all subjects and check that they can be compared, without loading weights.

    Raises:
        ExcitorError: A model or adapter is missing, adapters name different bases, or vocabularies differ.
    """
    adapters = short_names(arguments.adapter, taken=[BASE])
    models = short_names([arguments.model] if arguments.model else [], taken=[BASE, *adapters])
    base = arguments.base or _base_of(adapters)
    for source in filter(None, (base, arguments.model)):
        if (Path(source) / CONFIG_FILE).exists():
            raise ExcitorError(f"{source} is an adapter, not a model: name it with --adapter.")
    configs = [_read_config(source) for source in filter(None, (base, arguments.model))]
    contexts = [getattr(config, "max_position_embeddings", None) for config in configs]
    bits = chosen_bits(arguments.load_in_4bit, arguments.load_in_8bit, adapters.values())
    for config in configs:
        check_bits(bits, config)
    return Lineup(
        base=base,
        adapters=adapters,
        models=models,
        tokenizer=_common_tokenizer(
            [*adapters.values(), *models.values(), *([base] if base else [])],
            vocabulary=min(config.vocab_size for config in configs),
        ),
        context=min(filter(None, contexts), default=None),
        bits=bits,
        sight=_common_sight(adapters),
    )


def trained_template(adapters: dict[str, str]) -> str:
    """The template that the adapters were trained with by ``excitor train``; "auto" if none of them says.

    Raises:
        ExcitorError: They were trained with different ones.
    """
    runs = [read_run(directory) for directory in adapters.values()]
    found = {run["template"] for run in runs if run}
    if len(found) > 1:
        raise ExcitorError(
            f"The adapters were trained with different templates ({', '.join(sorted(found))}), so no prompt suits all "
            "of them: choose one with --template, or measure them one by one."
        )
    return found.pop() if found else "auto"


def _common_sight(adapters: dict[str, str]) -> ExcitorVisionConfig | None:
    found = {name: read_sight(directory) if sees(directory) else None for name, directory in adapters.items()}
    encoders = {
        name: sight and (sight.vision_model, sight.feature_layer, sight.feature_select)
        for name, sight in found.items()
    }
    if len(set(encoders.values())) > 1:
        named = ", ".join(
            f"{name} {f'with {encoder[0]}' if encoder else 'nothing'}" for name, encoder in encoders.items()
        )
        raise ExcitorError(f"The adapters see with different encoders ({named}): measure them one by one.")
    return next(iter(found.values()), None)


def _base_of(adapters: dict[str, str]) -> str | None:
    bases = {name: read_adapter_config(directory).base_model_name_or_path for name, directory in adapters.items()}
    if len(set(bases.values())) > 1:
        named = ", ".join(f"{name} on {base}" for name, base in bases.items())
        raise ExcitorError(f"The adapters were trained on different bases ({named}): measure them one by one.")
    if adapters and not next(iter(bases.values())):
        raise ExcitorError(f"{next(iter(adapters.values()))} does not name its base model: say which one with --base.")
    return next(iter(bases.values()), None)


def _read_config(source: str) -> PretrainedConfig:
    try:
        return AutoConfig.from_pretrained(source).get_text_config()
    except (OSError, ValueError) as error:
        raise ExcitorError(
            f"{source} is neither a folder with a model nor a model within reach on the hub: name the place where it "
            f"is with --model or --base. ({str(error).splitlines()[0]})"
        ) from error


def _common_tokenizer(sources: list[str], vocabulary: int) -> PreTrainedTokenizerBase:
    """The first tokenizer there is (fine-tuning may have given it a chat template); all must agree on ids.

    Args:
        sources: Subjects, then the base.
        vocabulary: Ids that all models have an embedding for.
    """
    found = {source: tokenizer for source in sources if (tokenizer := _read_tokenizer(source))}
    if not found:
        raise ExcitorError(f"{sources[-1]} has no usable tokenizer.")
    first, chosen = next(iter(found.items()))
    ids = chosen.get_vocab()
    for source, other in found.items():
        if not (ids.items() <= other.get_vocab().items() or other.get_vocab().items() <= ids.items()):
            raise ExcitorError(f"The tokenizers of {first} and {source} differ, so they cannot read the same text.")
    if max(ids.values()) >= vocabulary:
        raise ExcitorError(
            f"The tokenizer of {first} has {len(ids):,} tokens, and one of the models has embeddings for only "
            f"{vocabulary:,}: tokens that fine-tuning has added cannot be given to the base."
        )
    return chosen


def _read_tokenizer(source: str) -> PreTrainedTokenizerBase | None:
    if Path(source).is_dir() and not any(Path(source).glob("tokenizer*")):
        return None
    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError):  # an adapter on the hub without a tokenizer
        return None


def _load(source: str, precision: str, bits: int | None) -> PreTrainedModel:
    try:
        return load_base(source, DTYPES[precision], bits, this_process().device).eval()
    except (OSError, ValueError) as error:
        raise ExcitorError(f"{source} could not be loaded: {str(error).splitlines()[0]}") from error


def _twin(model: PreTrainedModel) -> PreTrainedModel:
    """Modules of its own on the same weights, for an adapter to change.

    Plain parameters are wrapped anew: a method that replaces weights while it loads (PiSSA keeps what its adapter does
    not hold) then replaces those of the twin.
    """
    held = [*model.parameters(), *model.buffers(), *weight_states(model)]
    shared: dict[int, Any] = {id(one): one for one in held}
    for parameter in model.parameters():
        if type(parameter) is nn.Parameter:
            shared[id(parameter)] = nn.Parameter(parameter.data, requires_grad=False)
    return copy.deepcopy(model, shared)
