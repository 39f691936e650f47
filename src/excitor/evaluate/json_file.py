"""JSON files, plain or gzipped, as evaluations read and write them."""

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

from excitor.errors import ExcitorError


def read_json(path: Path) -> Any:
    """The value of a JSON file; a name ending in ``.gz`` is a gzipped one.

    Raises:
        ExcitorError: The file is missing, damaged or no JSON, or an object in it has a key twice, of which Python
            would drop the first without a word.
    """
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix.lower() == ".gz" else content).decode("utf-8-sig")
        return json.loads(text, object_pairs_hook=_without_repeats)
    except ExcitorError as error:
        raise ExcitorError(f"{path}: {error}") from None
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ExcitorError(f"{path} cannot be read: {error.strerror}; expected a file with JSON in it.") from error
    except (OSError, EOFError, ValueError) as error:  # a damaged archive, wrong bytes and wrong JSON are the last two
        raise ExcitorError(f"{path} could not be read as JSON: {error}") from error


def fingerprint(path: Path) -> dict[str, str]:
    """The name and the SHA-256 of a file, to say in a result what it was computed from."""
    return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ExcitorError(f"the key {repeated!r} is given twice in one object; remove one of them")
    return value
