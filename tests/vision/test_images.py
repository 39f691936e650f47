from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from excitor.errors import ExcitorError
from excitor.vision.images import check_images, find_images, load_image


RED, WHITE = (255, 0, 0), (255, 255, 255)


def red(mode: str = "RGB") -> Image.Image:
    return Image.new("RGB", (4, 2), RED).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "P", "YCbCr", "HSV"])
def test_colours_become_rgb(mode: str):
    image = load_image(red(mode))
    assert image.mode == "RGB"
    assert np.abs(np.array(image)[0, 0].astype(int) - RED).max() <= 3  # YCbCr rounds


def test_cmyk_file(tmp_path: Path):
    red("CMYK").save(tmp_path / "a.tif")
    assert load_image(tmp_path / "a.tif").getpixel((0, 0)) == RED


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGBA", "PA"])
def test_grey_and_transparent_white_stay_white(mode: str):
    assert load_image(Image.new("RGB", (4, 2), WHITE).convert(mode)).getpixel((1, 1)) == WHITE


def test_transparency_is_put_on_white():
    assert load_image(Image.new("RGBA", (2, 2), (0, 0, 0, 0))).getpixel((0, 0)) == WHITE
    assert load_image(Image.new("LA", (2, 2), (0, 0))).getpixel((0, 0)) == WHITE


def test_transparent_palette_colour(tmp_path: Path):
    image = Image.new("P", (2, 2), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.save(tmp_path / "a.png", transparency=0)
    assert load_image(tmp_path / "a.png").getpixel((0, 0)) == WHITE


def test_16_bits_are_scaled_not_cut(tmp_path: Path):
    Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16)).save(tmp_path / "a.png")
    grey = np.array(load_image(tmp_path / "a.png"))[0, :, 0]
    assert grey.tolist() == [0, 128, 255]


def test_rotation_mark_is_carried_out(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera on its side
    red().save(tmp_path / "a.jpg", exif=exif)
    assert load_image(tmp_path / "a.jpg").size == (2, 4)


def test_camera_file_with_previews_is_one_picture(tmp_path: Path):
    red().save(tmp_path / "a.mpo", save_all=True, append_images=[Image.new("RGB", (4, 2))])
    assert load_image(tmp_path / "a.mpo").size == (4, 2)


def broken(folder: Path, name: str) -> Path:
    path = folder / name
    if name == "empty.png":
        path.write_bytes(b"")
    elif name == "text.jpg":
        path.write_text("no picture")
    elif name == "cut.jpg":
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:-2000])
    elif name == "chunk.png":
        red().save(path)
        content = bytearray(path.read_bytes())
        content[-20:-12] = b"\0" * 8
        path.write_bytes(content)
    elif name == "moving.gif":
        red().save(path, save_all=True, append_images=[Image.new("RGB", (4, 2))])
    elif name == "float.tif":
        Image.new("F", (2, 2)).save(path)
    elif name == "folder.png":
        path.mkdir()
    return path


FAULTS = {
    "empty.png": "is empty",
    "text.jpg": "is no picture",
    "cut.jpg": "damaged or cut off",
    "chunk.png": "damaged or cut off",
    "moving.gif": "has 2 frames",
    "float.tif": "pixels of the kind 'F'",
    "folder.png": "is a folder",
    "missing.png": "does not exist",
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_cannot_be_used_is_named(name: str, tmp_path: Path):
    path = broken(tmp_path, name)
    with pytest.raises(ExcitorError, match=FAULTS[name]) as error:
        load_image(path, "rows.jsonl, row 3")
    assert str(error.value).startswith(f"rows.jsonl, row 3: the picture {path} ")


def test_without_pixels():
    with pytest.raises(ExcitorError, match="has no pixels \\(0 x 5\\)"):
        load_image(Image.new("RGB", (0, 5)))


def test_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    red().save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3)
    with pytest.raises(ExcitorError, match="is too large"):
        load_image(tmp_path / "a.png")


def test_near_name_and_address(tmp_path: Path):
    red().save(tmp_path / "dog_01.png")
    with pytest.raises(ExcitorError, match=r"did you mean .*dog_01.png"):
        load_image(tmp_path / "dog_1.png")
    with pytest.raises(ExcitorError, match="address on the web"):
        load_image("https://example.org/a.png")


def test_check_names_all_faults_and_counts_them(tmp_path: Path):
    red().save(tmp_path / "good.png")
    pictures = {str(tmp_path / "good.png"): "row 1"}
    pictures |= {str(tmp_path / f"{number}.png"): f"row {number}" for number in range(2, 10)}
    with pytest.raises(ExcitorError, match=r"8 of 9 pictures cannot be used; the first 5:\n  row 2: ") as error:
        check_images(pictures)
    assert "row 6" in str(error.value)
    assert "row 7" not in str(error.value)
    check_images({str(tmp_path / "good.png"): "row 1"})


def test_find_images(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    for name in ("b.PNG", "sub/a.jpg"):
        red().save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    assert [path.name for path in find_images(tmp_path)] == ["b.PNG", "a.jpg"]
    with pytest.raises(ExcitorError, match="is no folder"):
        find_images(tmp_path / "b.PNG")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExcitorError, match="holds no picture"):
        find_images(tmp_path / "empty")
