"""Features of pictures on disk: a frozen encoder says the same of a picture each time, so it is asked once."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.utils.hub import cached_file

from excitor.arguments import check_writable
from excitor.environment import file_digest
from excitor.errors import ExcitorError
from excitor.evaluate.names import some
from excitor.vision.configuration import feature_width
from excitor.vision.encoder import check_layer, read_vision_config


INDEX_FILE = "index.json"
FORMAT = 1
SHARD_BYTES = 2**27
_OPEN_SHARDS = 64

_ENCODER_FILES = ("config.json", "preprocessor_config.json", "processor_config.json")
_WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


@dataclass(frozen=True)
class Encoding:
    """What made the features: they serve whoever would make the same."""

    name: str
    """Of the vision encoder: folder or hub id."""
    sha256: str
    """Of its weights and configuration, from :func:`fingerprint`."""
    layer: int
    select: str
    size: int | list[int] | None
    """Side of the pictures in pixels, as the encoder's configuration has it."""
    width: int
    """Of a feature, D."""


def encoding_of(vision_model: str, layer: int, select: str) -> Encoding:
    """How an encoder's features would be made, from its files alone.

    Args:
        vision_model: Folder or hub id.
        layer: Of the encoder's hidden states.
        select: ``full``, ``patch`` or ``cls``.

    Raises:
        ExcitorError: There is no such encoder, or it has no such layer.
    """
    config: Any = read_vision_config(vision_model)
    check_layer(config, layer)
    return Encoding(
        name=vision_model,
        sha256=fingerprint(vision_model),
        layer=layer,
        select=select,
        size=getattr(config, "image_size", None),
        width=feature_width(config),
    )


def fingerprint(encoder: str | nn.Module) -> str:
    """SHA-256 of an encoder's weights and configuration, and of how its pictures are prepared.

    Args:
        encoder: Folder or hub id, of which the files are read; or a module, of which the weights are.

    Raises:
        ExcitorError: The folder holds no weights.
    """
    digest = hashlib.sha256()
    if isinstance(encoder, nn.Module):
        for name, tensor in encoder.state_dict().items():
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()
    weights = weight_file(encoder)
    files = [weights, *filter(None, (_file_of(encoder, name) for name in _ENCODER_FILES))]
    if weights.suffix == ".json":
        files += [
            weights.with_name(name) for name in sorted(set(json.loads(weights.read_text())["weight_map"].values()))
        ]
    for path in files:
        digest.update(f"{path.name} {file_digest(path)}".encode())
    return digest.hexdigest()


def weight_file(encoder: str) -> Path:
    """The file of an encoder's weights, or the index of several.

    Raises:
        ExcitorError: The folder or hub repository holds none.
    """
    weights = next(filter(None, (_file_of(encoder, name) for name in _WEIGHT_FILES)), None)
    if weights is None:
        raise ExcitorError(f"--vision-model {encoder} holds no weights: expected model.safetensors.")
    return weights


def _file_of(model: str, name: str) -> Path | None:
    options: dict[str, Any] = {"_raise_exceptions_for_missing_entries": False}
    found = cached_file(model, name, **options, _raise_exceptions_for_connection_errors=False)
    return Path(found) if found else None


class FeatureStore:
    """Features of pictures in a folder: ``index.json`` says what made them, shards hold them.

    A picture is known by the SHA-256 of its file, so that copies and moved files are found, and another picture under
    the same name is not taken for it. A shard is a safetensors file with ``features``, ``(pictures, V, D)``, and the
    pictures' digests in its header; it is written in one step, so whatever stops the writing leaves whole shards.

    Args:
        folder: Of a store that is there; see :meth:`open` for one that may have to be made.

    Raises:
        ExcitorError: There is no store, or it is damaged or of another version.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        index = self.folder / INDEX_FILE
        try:
            found = json.loads(index.read_text(encoding="utf-8"))
            self.encoding = Encoding(**found["encoding"])
            version = found["format"]
        except FileNotFoundError as error:
            raise ExcitorError(
                f"{folder} holds no features (no {INDEX_FILE}): make them with excitor features."
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ExcitorError(f"{index} is damaged ({error}): make the features again.") from error
        if version != FORMAT:
            raise ExcitorError(
                f"{index} is of version {version}, and this is excitor's {FORMAT}: make the features again."
            )
        self._places: dict[str, tuple[Path, int]] = {}
        self._shape: tuple[int, ...] | None = None
        self._shards = 0
        self._reader = lru_cache(maxsize=_OPEN_SHARDS)(_open_shard)
        for shard in sorted(self.folder.glob("*.safetensors")):
            self._enter(shard)

    @classmethod
    def open(cls, folder: str | os.PathLike[str], encoding: Encoding) -> "FeatureStore":
        """A store of these features, made if it is not there.

        Raises:
            ExcitorError: The store was made by another encoder or layer, or the folder may not be written to.
        """
        path = Path(folder)
        if (path / INDEX_FILE).exists():
            store = cls(path)
            store.check(encoding)
            return store
        check_writable(path)
        if path.is_dir() and any(path.iterdir()):
            raise ExcitorError(f"{folder} is not empty and holds no features: choose another folder.")
        path.mkdir(parents=True, exist_ok=True)
        index = json.dumps({"format": FORMAT, "encoding": asdict(encoding)}, indent=2) + "\n"
        (path / INDEX_FILE).write_text(index, encoding="utf-8")
        return cls(path)

    def check(self, encoding: Encoding) -> None:
        """Check that the features are those that ``encoding`` would make.

        Raises:
            ExcitorError: They are not; the message says in what they differ.
        """
        own, wanted = asdict(self.encoding), asdict(encoding)
        differ = [name for name in own if own[name] != wanted[name] and name != "name"]  # an encoder may have moved
        if not differ:
            return
        if differ == ["sha256"]:
            differences = f"the files of {self.encoding.name} and {encoding.name} are not the same"
        else:
            shown = [name for name in differ if name != "sha256"]
            differences = ", ".join(f"{name} is {own[name]} there and {wanted[name]} here" for name in shown)
            differences = f"encoder {self.encoding.name} there, {encoding.name} here: {differences}"
        raise ExcitorError(
            f"The features in {self.folder} were made in another way ({differences}): make them again in another "
            "folder."
        )

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, digest: str) -> bool:
        return digest in self._places

    @property
    def tokens(self) -> int | None:
        """Features of a picture, V; None in an empty store."""
        return self._shape[0] if self._shape else None

    def add(self, digests: Sequence[str], features: Tensor) -> None:
        """Write a shard.

        Args:
            digests: Of the pictures' files, from :func:`file_digest`.
            features: ``(pictures, V, D)`` in whatever dtype; it is kept.

        Raises:
            ExcitorError: The features have another shape than those that are there, or are no finite numbers.
        """
        shape = tuple(features.shape[1:])
        if self._shape not in (None, shape):
            raise ExcitorError(f"{self.folder} holds features of the shape {self._shape}, and these have {shape}.")
        if not features.isfinite().all():
            raise ExcitorError(
                f"The encoder {self.encoding.name} gives features that are no finite numbers: use fp32."
            )
        path = self.folder / f"{self._shards:06d}.safetensors"
        scratch = path.with_suffix(".tmp")
        save_file({"features": features.cpu().contiguous()}, scratch, metadata={"pictures": json.dumps(list(digests))})
        os.replace(scratch, path)
        self._enter(path)

    def get(self, digests: Sequence[str]) -> Tensor:
        """The features of some pictures, ``(pictures, V, D)``."""
        rows = []
        for digest in digests:
            shard, row = self._places[digest]
            rows.append(self._reader(shard).get_slice("features")[row])
        return torch.stack(rows)

    def find(self, pictures: Mapping[str, str]) -> dict[str, str]:
        """The digests of pictures, which must all be in the store.

        Args:
            pictures: By path, where each is asked for.

        Returns:
            By path.

        Raises:
            ExcitorError: Some are not in the store; the message counts them and names the first few.
        """
        digests = dict(zip(pictures, digest_all(pictures), strict=True))
        lacking = [f"{path} ({where})" for path, where in pictures.items() if digests[path] not in self]
        if lacking:
            raise ExcitorError(
                f"{self.folder} lacks the features of {len(lacking):,} of {len(pictures):,} pictures: "
                f"{some(lacking)}. Run excitor features on them with the same --out; what is there is kept."
            )
        return digests

    def _enter(self, shard: Path) -> None:
        try:
            reader = _open_shard(shard)
            digests = json.loads(reader.metadata()["pictures"])
            shape = tuple(reader.get_slice("features").get_shape())
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ExcitorError(f"{shard} is damaged ({error}): delete it and run excitor features again.") from error
        self._shape = shape[1:]
        self._places |= {digest: (shard, row) for row, digest in enumerate(digests)}
        self._shards = max(self._shards, int(shard.stem) + 1)


def digest_all(paths: Iterable[str]) -> Iterator[str]:
    """The digests of files, several at a time, in their order."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(file_digest, paths)


def _open_shard(path: Path) -> Any:
    return safe_open(path, framework="pt")
