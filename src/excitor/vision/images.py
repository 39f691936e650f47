"""Pictures from files: whatever a data set holds becomes RGB, or one error says which file cannot and why."""

import difflib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError
from rich.console import Console
from rich.progress import track

from excitor.errors import ExcitorError


SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
SHOWN_FAULTS = 5

# Pillow gives 16 bits a pixel under these names; its own conversion to 8 bits cuts everything above 255 to white.
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_FROM_SIXTEEN = 1 / 257


def load_image(source: str | os.PathLike[str] | Image.Image, where: str | None = None) -> Image.Image:
    """Read one picture as 8-bit RGB, upright.

    A camera's rotation mark (EXIF) is carried out, transparency is put on white, grey, palette, CMYK, YCbCr and HSV
    become RGB, and 16 bits become 8.

    Args:
        source: A file, or a picture that was opened before.
        where: What asks for it, such as ``"captions.json, row 3"``; stands in front of the message.

    Raises:
        ExcitorError: The file is missing, empty, cut off or no picture; it is animated or has several pages, so that
            nobody knows which of them is meant; a side has no pixels; or its pixels have no known white (32-bit, Lab).
    """
    name = f"the picture {source}" if not isinstance(source, Image.Image) else "the picture"
    try:
        return _load(source)
    except ExcitorError as error:
        raise ExcitorError(f"{where}: {name} {error}" if where else f"{name} {error}") from error.__cause__


def check_images(pictures: Mapping[str, str], console: Console | None = None) -> None:
    """Open every picture, as training would, and name those that cannot be used.

    Args:
        pictures: By path, where it is asked for, as in :func:`load_image`.
        console: Where the progress is shown.

    Raises:
        ExcitorError: At least one cannot be used; the message counts them and names the first few.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without holding the interpreter
        checked = pool.map(_fault, pictures.items())
        faults = [
            fault
            for fault in track(checked, "Checking pictures", len(pictures), console=console, transient=True)
            if fault
        ]
    if faults:
        raise ExcitorError(f"{len(faults):,} of {len(pictures):,} pictures cannot be used{listed(faults)}")


def listed(faults: Sequence[str]) -> str:
    """The first few faults, a line each, to stand behind their number."""
    more = f"; the first {SHOWN_FAULTS}" if len(faults) > SHOWN_FAULTS else ""
    return more + ":" + "".join(f"\n  {fault}" for fault in faults[:SHOWN_FAULTS])


def find_images(folder: Path) -> list[Path]:
    """All pictures in a folder and the folders in it, by their suffix, sorted.

    Raises:
        ExcitorError: There is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise ExcitorError(f"{folder} is no folder: name one with pictures in it.")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise ExcitorError(f"{folder} holds no picture: expected files that end in {', '.join(SUFFIXES)}.")
    return found


def _fault(picture: tuple[str, str]) -> str | None:
    try:
        load_image(*picture)
    except ExcitorError as error:
        return str(error)
    return None


def _load(source: str | os.PathLike[str] | Image.Image) -> Image.Image:
    if isinstance(source, Image.Image):
        return _upright(source)
    path = Path(source)
    if path.is_dir():
        raise ExcitorError("is a folder; expected a file.")
    if not path.exists():
        raise ExcitorError(missing(path))
    if path.stat().st_size == 0:
        raise ExcitorError("is empty (0 bytes): copy or download it again.")
    try:
        with Image.open(path) as image:
            return _upright(image)
    except UnidentifiedImageError as error:
        raise ExcitorError("is no picture that Pillow can read: remove its row, or save it as JPEG or PNG.") from error
    except Image.DecompressionBombError as error:
        raise ExcitorError(
            f"is too large ({str(error).split(' exceeds')[0]}): vision encoders look at a few hundred pixels a side, "
            "so make it smaller."
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # SyntaxError: Pillow's word for broken chunks
        if isinstance(error, ExcitorError):
            raise
        raise ExcitorError(f"is damaged or cut off ({error}): copy or download it again.") from error


def missing(path: Path) -> str:
    """What to say of a file that is not there, with the nearest name that is."""
    if str(path).startswith(("http:/", "https:/")):
        return "is an address on the web: download it, and name the file."
    near = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    guess = difflib.get_close_matches(path.name, near, n=1)
    return "does not exist" + (f"; did you mean {path.with_name(guess[0])}?" if guess else ".")


def _upright(image: Image.Image) -> Image.Image:
    if 0 in image.size:
        raise ExcitorError(f"has no pixels ({image.width} x {image.height}).")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a camera's JPEG with previews behind it, of which the first is meant
        raise ExcitorError(f"has {frames} frames or pages: save the one that is meant as a picture of its own.")
    image.load()
    return _rgb(ImageOps.exif_transpose(image))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BITS:
        return image.convert("I").point(lambda value: value * _FROM_SIXTEEN + 0.5).convert("L").convert("RGB")
    if image.mode in ("I", "F", "LAB"):
        raise ExcitorError(f"has pixels of the kind {image.mode!r}, whose white is not known: save it as 8-bit RGB.")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(ground, image).convert("RGB")
    return image.convert("RGB")
