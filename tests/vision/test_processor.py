from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, CLIPImageProcessorPil

from excitor import ExcitorError
from excitor.vision import ExcitorProcessor
from excitor.vision.images import load_image
from excitor.vision.processor import strip_placeholders


RED, BLUE = Image.new("RGB", (20, 16), "red"), Image.new("RGB", (9, 33), "blue")


@pytest.fixture
def processor(tokenizer) -> ExcitorProcessor:
    size = {"height": 16, "width": 16}
    return ExcitorProcessor(CLIPImageProcessorPil(size=size, crop_size=size), tokenizer)


def test_rows_with_and_without_pictures(processor: ExcitorProcessor) -> None:
    inputs = processor(text=["one", "none at all", "two"], images=[[RED], [], [BLUE, RED]], padding=True)
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (3, 11)
    assert inputs["pixel_values"].shape == (3, 3, 16, 16)
    assert inputs["num_images"].tolist() == [1, 0, 2]
    assert torch.equal(inputs["pixel_values"][0], inputs["pixel_values"][2])
    blind = processor(text="none", images=None)
    assert set(blind) == {"input_ids", "attention_mask", "num_images"}
    assert torch.equal(processor(text="one", images=RED)["pixel_values"], inputs["pixel_values"][:1])


def test_placeholders_are_counted_and_make_no_token(processor: ExcitorProcessor) -> None:
    inputs = processor(text=["<image>\nWhat is it?"], images=[RED])
    assert processor.tokenizer.decode(inputs["input_ids"][0], skip_special_tokens=True) == "What is it?"
    assert strip_placeholders("Compare <image> with <image>.", 2, "row 3") == "Compare with ."
    assert strip_placeholders("No sign of it", 2, "row 3") == "No sign of it"
    with pytest.raises(ExcitorError, match="row 3 has 1 <image> for 2 pictures"):
        strip_placeholders("Compare <image>", 2, "row 3")
    with pytest.raises(ExcitorError, match="text 1 has 1 <image> for 0 pictures"):
        processor(text=["a", "<image> b"], images=[[RED], []])


def test_pictures_are_read_as_in_training(processor: ExcitorProcessor, tmp_path: Path) -> None:
    turned, mark = Image.effect_noise((24, 16), 60).convert("RGB"), Image.Exif()
    mark[0x0112] = 6  # orientation: to be turned by a quarter
    turned.save(tmp_path / "turned.png", exif=mark)
    found = processor(text=["a"], images=[Image.open(tmp_path / "turned.png")])["pixel_values"]
    upright = processor(text=["a"], images=[load_image(tmp_path / "turned.png")])["pixel_values"]
    assert torch.equal(found, upright)
    assert not torch.equal(found, processor(text=["a"], images=[turned])["pixel_values"])
    with pytest.raises(ExcitorError, match="text 1: the picture"):
        processor(text=["a", "b"], images=[RED, Image.new("RGB", (0, 4))])


def test_bad_calls_are_refused(processor: ExcitorProcessor) -> None:
    with pytest.raises(ExcitorError, match="pictures for 1 rows and 2 texts"):
        processor(text=["a", "b"], images=[RED])
    with pytest.raises(ExcitorError, match="no text"):
        processor(images=[RED])


def test_it_is_saved_and_loaded(processor: ExcitorProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    for load in (ExcitorProcessor, AutoProcessor):
        loaded = load.from_pretrained(tmp_path)
        assert isinstance(loaded, ExcitorProcessor)
        again = loaded(text="one", images=RED)
        for name, tensor in processor(text="one", images=RED).items():
            assert torch.equal(again[name], tensor)
