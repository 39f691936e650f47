"""Saving an adapter so that it is known to be on disk, and loading one with errors that say what is wrong."""

import errno
import json
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from peft import PeftConfig, PeftModel, PeftType, get_peft_model_state_dict, load_peft_weights
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from peft.utils.error import NoMatchingPeftModuleError
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer

from . import bottleneck as _bottleneck  # noqa: F401  (registers it)
from . import combined as _combined  # noqa: F401  (registers it, and Excitor)
from .errors import ExcitorError
from .materialize import materialized
from .quantised import check_bits, load_base, trained_bits


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PICKLE_FILE = "adapter_model.bin"


def save_adapter(model: PeftModel, directory: str | os.PathLike[str], adapter_name: str | None = None) -> None:
    """Write an adapter, read it back, compare, and only then put it in place.

    Works for any PEFT method. Files that were there before are replaced whole, weights first: an interrupted save
    leaves no half file.

    Args:
        model: The adapted model, compiled by ``torch.compile`` or not.
        directory: Where ``adapter_config.json`` and ``adapter_model.safetensors`` go; created when missing.
        adapter_name: Which of the model's adapters; the active one when not given.

    Raises:
        ExcitorError: The model has no such adapter, the disk is full, or what was read back differs from what was
            written.
    """
    model = getattr(model, "_orig_mod", model)
    if not isinstance(model, PeftModel):
        raise ExcitorError(
            f"save_adapter takes a PeftModel, as get_peft_model and load_adapter make it, not {type(model).__name__}: "
            "where transformers' own add_adapter was used, model.save_pretrained writes the adapter."
        )
    active = model.active_adapters if adapter_name is None else [adapter_name]
    if len(active) > 1:
        raise ExcitorError(f"several adapters are active: name one of {', '.join(active)}.")
    (adapter_name,) = active
    if adapter_name not in model.peft_config:
        raise ExcitorError(
            f"there is no adapter {adapter_name!r} on this model; there are: {', '.join(model.peft_config)}."
        )
    target = Path(directory)
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target, prefix=".saving-") as scratch, materialized(model, adapter_name):
            model.save_pretrained(scratch, selected_adapters=[adapter_name])
            written = Path(scratch) if adapter_name == "default" else Path(scratch) / adapter_name
            _compare(load_file(written / WEIGHTS_FILE), get_peft_model_state_dict(model, adapter_name=adapter_name))
            for file in (WEIGHTS_FILE, CONFIG_FILE):
                os.replace(written / file, target / file)
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            free = shutil.disk_usage(target if target.exists() else target.parent).free
            raise ExcitorError(
                f"no space left to save the adapter in {target} ({free / 2**20:.0f} MiB free): "
                "free some space or choose another directory."
            ) from error
        raise


def _compare(read: dict[str, torch.Tensor], held: dict[str, torch.Tensor]) -> None:
    if read.keys() != held.keys():
        raise ExcitorError(f"the saved adapter lacks or adds tensors: {sorted(read.keys() ^ held.keys())[:3]}.")
    for key, tensor in held.items():
        if not torch.equal(read[key], tensor.cpu()):
            raise ExcitorError(f"the saved adapter differs from the trained one in {key}: the disk may be faulty.")


def load_adapter(
    directory: str,
    base: str | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    bits: int | str | None = "auto",
) -> "tuple[PeftModel, PreTrainedTokenizerBase]":
    """Load an adapter together with its base model, ready for inference.

    Args:
        directory: Folder or hub id of the adapter, of any PEFT method.
        base: Base model to use in place of the one the adapter names.
        dtype: Of the base model; ``"auto"`` takes the one it is stored in.
        device: Where to put the model; CUDA when there is one, by default.
        bits: Load the base in 4 or 8 bits, or in full with None; ``"auto"`` is how ``excitor train`` had loaded it.

    Returns:
        The adapted model in evaluation mode, with its vision encoder if it was trained to see, and the tokenizer
        saved with the adapter, else the base's.

    Raises:
        ExcitorError: The adapter or its base cannot be found, they do not fit each other, or the base cannot be loaded
            in so many bits.
    """
    from .vision.loading import read_sight, sees, with_encoder

    config = read_adapter_config(directory)
    base = base or config.base_model_name_or_path
    if base is None:
        raise ExcitorError(f"{directory} does not name its base model: say which one it is.")
    try:
        base_config = AutoConfig.from_pretrained(base)
    except (OSError, ValueError) as error:
        raise ExcitorError(
            f"the base model {base} of adapter {directory} is neither a folder with a model nor within reach on the "
            f"hub: name the place where it is now. ({str(error).splitlines()[0]})"
        ) from error
    width = trained_bits(directory) if bits == "auto" else cast(int | None, bits)
    check_bits(width, base_config)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    source = directory if (Path(directory) / "tokenizer_config.json").exists() else base
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ExcitorError(f"{source} has no usable tokenizer: {str(error).splitlines()[0]}.") from error
    model = load_base(base, dtype, width, device)
    if sees(directory):
        model = with_encoder(model, read_sight(directory))
    return attach_adapter(model, directory).to(device).eval(), tokenizer


def attach_adapter(model: "PreTrainedModel", directory: str) -> PeftModel:
    """Load an adapter of any PEFT method onto a base model.

    Args:
        model: The base; its modules are changed in place.
        directory: Folder or hub id of the adapter.

    Raises:
        ExcitorError: There is no such adapter, it is damaged, not all its numbers are finite, or it was trained on
            another architecture.
    """
    config = read_adapter_config(directory)
    unfit = f"the adapter {directory} does not fit the base model {model.name_or_path}"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            adapted = PeftModel.from_pretrained(model, directory, config=config)
    except SafetensorError as error:
        raise ExcitorError(f"{Path(directory) / WEIGHTS_FILE} is damaged: {error}.") from error
    except (UserWarning, NoMatchingPeftModuleError) as error:
        raise ExcitorError(f"{unfit}: {error}") from error
    except RuntimeError as error:
        if "size mismatch" not in str(error):
            raise
        raise ExcitorError(f"{unfit}: {str(error).splitlines()[1].strip()}") from error
    prefix = PEFT_TYPE_TO_PREFIX_MAPPING.get(PeftType(adapted.peft_type))
    held = get_peft_model_state_dict(adapted).keys()
    several = prefix is not None and not any(prefix in key for key in held)  # of a combined adapter no tensor has it
    weights = load_peft_weights(directory, device="cpu")
    for key, tensor in weights.items():
        check_finite(key, tensor, directory)
    if several and (missing := held - weights.keys()):
        raise ExcitorError(f"{unfit}: it has no {sorted(missing)[0]} ({len(missing)} such tensors).")
    stored = {key for key in weights if prefix and (several or prefix in key)}
    if unused := stored - held:
        raise ExcitorError(f"{unfit}: the base has no place for {sorted(unused)[0]} ({len(unused)} such tensors).")
    return adapted


def check_finite(key: str, tensor: torch.Tensor, source: str | os.PathLike[str]) -> None:
    """Refuse a tensor of an adapter that holds NaN or infinity: with it a model says nothing.

    Raises:
        ExcitorError: It does; the message names the tensor.
    """
    if tensor.is_floating_point() and not tensor.isfinite().all():
        raise ExcitorError(
            f"{source}: the numbers of {key} are not all finite. The training that made the adapter has diverged, or "
            "the file is damaged: train it again, with a lower learning rate."
        )


def read_adapter_config(directory: str) -> PeftConfig:
    """The adapter's configuration, or an error that says why there is none."""
    path = Path(directory)
    if path.is_dir() and not (path / CONFIG_FILE).exists():
        found = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "nothing"
        raise ExcitorError(f"{directory} is no adapter folder: it has no {CONFIG_FILE} (it holds {found}).")
    if path.is_dir() and not (path / WEIGHTS_FILE).exists():
        if (path / PICKLE_FILE).exists():
            raise ExcitorError(
                f"{directory} holds {PICKLE_FILE}, a pickle, and {WEIGHTS_FILE} alone is read here: "
                "load it with PeftModel.from_pretrained, which reads both, and write it anew with save_pretrained."
            )
        raise ExcitorError(f"{directory} has no {WEIGHTS_FILE}: the adapter was not saved to its end.")
    nameless = ExcitorError(f"{path / CONFIG_FILE} does not say which PEFT method it is for: it has no peft_type.")
    try:
        config = PeftConfig.from_pretrained(directory)
    except json.JSONDecodeError as error:
        raise ExcitorError(f"{path / CONFIG_FILE} is not valid JSON: {error}.") from error
    except TypeError as error:  # PEFT's, where there are fields that belong to some method
        if "not a mapping" in str(error):
            raise ExcitorError(f"{path / CONFIG_FILE} is damaged: it must hold a JSON object.") from error
        if "peft_type" not in str(error):
            raise
        raise nameless from error
    except KeyError as error:
        raise ExcitorError(f"{path / CONFIG_FILE} names no PEFT method this installation knows: {error}.") from error
    except (OSError, ValueError) as error:
        if isinstance(error, ExcitorError):
            raise
        raise ExcitorError(
            f"{directory} is neither an adapter folder nor an adapter within reach on the hub."
        ) from error
    if config.peft_type is None:
        raise nameless
    return config
