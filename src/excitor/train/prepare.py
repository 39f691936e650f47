"""Everything that can go wrong before weights are loaded: arguments, folder, model configuration, data."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftConfig, get_peft_model
from peft.utils.error import NoMatchingPeftModuleError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from excitor.combined import CombinedConfig
from excitor.config import ExcitorConfig
from excitor.data import Encoded, encode_examples, load_examples, read_text
from excitor.environment import describe_environment
from excitor.errors import ExcitorError
from excitor.preservation.replay import ReplayText, read_replay
from excitor.preservation.weights import Weights, split_weight
from excitor.quantised import check_bits, chosen_bits
from excitor.train.arguments import PRESETS, TrainArguments
from excitor.train.folder import check_folder, check_space
from excitor.train.method import read_method, resolved_fields
from excitor.train.sight import Sight, check_method, read_pictures, read_seeing_config
from excitor.vision.configuration import ExcitorVisionConfig
from excitor.vision.model import ExcitorForConditionalGeneration


DEFAULT_MAX_LENGTH = 1024
DEFAULT_REPLAY_LENGTH = 256
HELD_OUT_SHARE = 0.05
HELD_OUT_MOST = 500

# The held-out rows stay the same from seed to seed, so that runs can be compared.
SPLIT_SEED = 0


@dataclass(frozen=True)
class Job:
    """A run that is ready to load its model."""

    arguments: TrainArguments
    """Resolved: max_length, precision, learning_rate, eval_rows and the method's numbers are what will be used."""
    method: PeftConfig
    tokenizer: PreTrainedTokenizerBase
    notes: str
    """What was read from where, a line per file; the last says how the cache of tokens served."""
    encoded: Encoded
    train: Dataset
    held_out: Dataset
    retain: Dataset | None
    """Encoded retention text; None when the base has to write it."""
    replay: ReplayText | None
    """Replay text; None when there is no use for it, or the base has to write it."""
    sight: Sight | None
    """What is needed to see the rows' pictures; None for a run on text."""
    trainable: int
    """Number of trainable parameters."""
    bytes_needed: int
    """What the run will write, about."""
    environment: dict[str, Any]


def prepare(arguments: TrainArguments) -> Job:
    """Check a run and read its data, without loading weights and without writing anything.

    Raises:
        ExcitorError: Something the user can mend; see the message.
    """
    arguments = arguments.filled()
    arguments.check()
    check_folder(arguments)
    model = str(arguments.model)
    config = read_model_config(model)
    check_bits(chosen_bits(arguments.load_in_4bit, arguments.load_in_8bit), config)
    tokenizer = read_tokenizer(model)
    seeing = read_seeing_config(arguments, config) if arguments.vision_model else None
    method = read_method(arguments, seeing.vision_width if seeing else None)
    if seeing:
        check_method(method)
    weights = arguments.weights()
    _check_weights(weights, method)
    trainable = count_trainable(seeing or config, method, arguments.adapter_config)
    _check_stored(model)
    bytes_needed = _bytes_needed(trainable, arguments.keep_checkpoints)
    check_space(Path(str(arguments.out)), bytes_needed)
    max_length = _max_length(arguments.max_length, config)
    replay_length = _replay_length(arguments.replay_length, max_length)
    precision = chosen_precision(arguments.precision)

    retain = None
    if arguments.retain:
        retain = read_text(
            arguments.retain, tokenizer, max_length=max_length, max_documents=arguments.retain_documents
        )
    replay = None
    if arguments.replay:
        replay = read_replay(arguments.replay, tokenizer, documents=arguments.replay_documents, length=replay_length)
    examples, sight = read_pictures(arguments) if seeing else (load_examples(arguments.data), None)
    encoded = encode_examples(
        examples, tokenizer, max_length=max_length, template=arguments.template, cache=arguments.cache_tokens
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = encoded.stop_token  # any token will do: padding is masked
    train, held_out = _split(encoded, arguments.eval_rows)
    notes = examples.info.description, encoded.cache, _repeated(train, held_out)
    sources = [*arguments.data, *arguments.retain, *(split_weight(source)[0] for source in arguments.replay)]
    resolved = replace(
        arguments,
        max_length=max_length,
        template=encoded.template,
        replay_length=replay_length if weights.on_replay else None,
        learning_rate=arguments.learning_rate or PRESETS[arguments.preset or "default"],
        precision=precision,
        eval_rows=len(held_out),
        **resolved_fields(method),
        **{f"{name}_weight": value for name, value in vars(weights).items()},
    )
    return Job(
        arguments=resolved,
        method=method,
        tokenizer=tokenizer,
        notes="\n".join(filter(None, notes)),
        encoded=encoded,
        train=train,
        held_out=held_out,
        retain=retain,
        replay=replay,
        sight=sight,
        trainable=trainable,
        bytes_needed=bytes_needed,
        environment=describe_environment(sources, encoded.dataset, arguments.seed),
    )


def read_model_config(model: str) -> PretrainedConfig:
    """The configuration of a base.

    Raises:
        ExcitorError: There is no such model.
    """
    try:
        return AutoConfig.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise ExcitorError(
            f"--model {model} is neither a folder with a model nor a model within reach on the hub "
            f"({str(error).splitlines()[0]})"
        ) from error


def _check_stored(model: str) -> None:
    """A folder with a configuration and no weights is found before its data are read."""
    folder = Path(model)
    stored = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json")
    if folder.is_dir() and not any(any(folder.glob(pattern)) for pattern in stored):
        found = ", ".join(sorted(entry.name for entry in folder.iterdir()))
        raise ExcitorError(f"--model {model} holds no weights: expected model.safetensors (it holds {found}).")


def read_tokenizer(model: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a base.

    Raises:
        ExcitorError: There is none that works.
    """
    try:
        return AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise ExcitorError(f"--model {model} has no usable tokenizer ({str(error).splitlines()[0]})") from error


def count_trainable(config: PretrainedConfig, method: PeftConfig, method_file: str | None = None) -> int:
    """Adapt the architecture without its weights: what does not fit is found before they are loaded.

    Args:
        config: Of the base, or of the base and its vision encoder.
        method: Stays as it is.
        method_file: Where it was read from, for messages.

    Returns:
        The number of trainable parameters.

    Raises:
        ExcitorError: The base is no causal language model, or has no layer that the method names.
    """
    try:
        with torch.device("meta"):
            base = _build(config)
    except ValueError as error:
        raise ExcitorError(
            f"--model {config.name_or_path} is no causal language model: transformers has no such class for "
            f"'{config.model_type}'. excitor train needs a decoder; other models are adapted from Python."
        ) from error
    try:
        try:
            return get_peft_model(base, replace(method)).get_nb_trainable_parameters()[0]
        except NotImplementedError:  # SHiRA draws a mask and counts it, which takes values: random weights will do
            base = _build(config)
            return get_peft_model(base, replace(method)).get_nb_trainable_parameters()[0]
    except NoMatchingPeftModuleError as error:
        source = f"--adapter-config {method_file}" if method_file else "--target-modules"
        raise ExcitorError(f"{source} names no layer of --model {config.name_or_path}: {error}") from error
    except ExcitorError:
        raise
    except (TypeError, ValueError) as error:  # another method's own checks
        if method_file is None:
            raise
        raise ExcitorError(f"--adapter-config {method_file}: {error}") from error


def _build(config: PretrainedConfig) -> PreTrainedModel:
    if isinstance(config, ExcitorVisionConfig):
        return ExcitorForConditionalGeneration(config)
    return AutoModelForCausalLM.from_config(config)


def _bytes_needed(trainable: int, checkpoints: int) -> int:
    """fp32 adapter, and checkpoints with two moments of AdamW each; one more exists while it is being saved."""
    small_files = 32 * 2**20  # tokenizer, metrics, report, curves
    return 4 * trainable * (1 + 3 * (checkpoints + 1)) + small_files


def _max_length(wanted: int | None, config: PretrainedConfig) -> int:
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    if wanted is None:
        return min(context or DEFAULT_MAX_LENGTH, DEFAULT_MAX_LENGTH)
    if context is not None and wanted > context:
        raise ExcitorError(f"--max-length {wanted} is more than the {context} tokens of the model's context.")
    return wanted


def _replay_length(wanted: int | None, max_length: int) -> int:
    if wanted is not None and wanted > max_length:
        raise ExcitorError(f"--replay-length {wanted} is more than --max-length {max_length}.")
    return wanted or min(DEFAULT_REPLAY_LENGTH, max_length)


def _check_weights(weights: Weights, method: PeftConfig) -> None:
    flags = ", ".join(f"--{name.replace('_', '-')}-weight" for name in weights.for_excitor_only)
    parts = method.configs() if isinstance(method, CombinedConfig) else [method]
    if flags and not any(isinstance(part, ExcitorConfig) for part in parts):
        raise ExcitorError(
            f"{flags}: only Excitor has such a loss, and --adapter-config names another method. Set it to 0; "
            "--kl-weight, --prompt-kl-weight and --hidden-drift-weight work with every method."
        )
    if weights.gate and any(getattr(part, "gate", None) == "none" for part in parts):
        raise ExcitorError("--gate-weight needs gates, and --gate is none. Leave out one of the two.")


def chosen_precision(wanted: str) -> str:
    """``fp32``, ``bf16`` or ``fp16``; for ``auto`` what the hardware has.

    Raises:
        ExcitorError: It has not what is wanted.
    """
    has_gpu = torch.cuda.is_available()
    has_bf16 = has_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    if wanted == "auto":
        return "bf16" if has_bf16 else "fp32"
    if wanted == "fp16" and not has_gpu:
        raise ExcitorError("--precision fp16 needs a GPU; use fp32 or bf16 on this machine.")
    if wanted == "bf16" and has_gpu and not has_bf16:
        raise ExcitorError("--precision bf16 is not supported by this GPU; use fp16 or fp32.")
    return wanted


def _split(encoded: Encoded, wanted: int | None) -> tuple[Dataset, Dataset]:
    rows = len(encoded.dataset)
    if rows < 2:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in encoded.dropped.items()) or "none"
        raise ExcitorError(
            f"{rows} of {encoded.rows_read:,} rows can be used, and at least 2 are needed (one is held out to measure "
            f"what was learned). Dropped: {reasons}. Raise --max-length, or give other data."
        )
    held_out = wanted or min(max(1, round(HELD_OUT_SHARE * rows)), HELD_OUT_MOST)
    if held_out >= rows:
        raise ExcitorError(f"--eval-rows {held_out} leaves none of {rows:,} usable rows to train on.")
    parts = encoded.dataset.train_test_split(test_size=held_out, seed=SPLIT_SEED)
    return parts["train"], parts["test"]


def _repeated(train: Dataset, held_out: Dataset) -> str:
    """A warning where rows to measure on are trained on as well; nothing otherwise."""
    seen = set(map(tuple, train["input_ids"]))
    count = sum(tuple(row) in seen for row in held_out["input_ids"])
    if not count:
        return ""
    return f"Caution: {count:,} of {len(held_out):,} held-out rows are trained on too, as the data repeats them."
