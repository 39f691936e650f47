import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoConfig

from excitor import CombinedConfig, ExcitorError, load_adapter
from excitor.train.arguments import TrainArguments
from excitor.train.method import read_method
from excitor.train.prepare import prepare
from excitor.train.run import train
from excitor.vision.arguments import FeatureArguments
from excitor.vision.model import ExcitorForConditionalGeneration
from excitor.vision.precompute import make_features
from tiny_vision import COLOURS, save_encoder, save_pictures


QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder, pictures of one colour each, and captions that name it."""
    folder = tmp_path_factory.mktemp("world")
    save_encoder(folder / "encoder", initializer_range=0.5)
    save_pictures(folder / "pictures")
    rows = [{"image": f"{colour}.png", "caption": colour} for colour in COLOURS] * 5
    (folder / "pictures" / "rows.json").write_text(json.dumps(rows))
    return folder


def arguments(world: Path, base_dir: str, out: Path, **changes) -> TrainArguments:
    values = {
        "model": base_dir,
        "vision_model": str(world / "encoder"),
        "data": [str(world / "pictures" / "rows.json")],
        "out": str(out),
        "caption_instruction": "Colour?",
        "steps": 2,
        "batch_size": 4,
        "eval_rows": 4,
        "retain_documents": 1,
    }
    return TrainArguments(**(values | changes))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def test_from_pictures_to_a_model_that_sees(world: Path, base_dir: str, tmp_path: Path):
    report = train(arguments(world, base_dir, tmp_path / "run", steps=12, learning_rate=0.03), QUIET)
    assert report["learned"]["change"] < -0.5
    model, tokenizer = load_adapter(str(tmp_path / "run"))
    assert isinstance(model.get_base_model(), ExcitorForConditionalGeneration)
    ids = tokenizer("Colour?", return_tensors="pt").input_ids
    shown = [model(ids, pixel_values=torch.full((1, 3, 16, 16), value)).logits for value in (-1.0, 1.0)]
    assert not torch.allclose(shown[0], shown[1])
    again = ExcitorForConditionalGeneration.from_pretrained(tmp_path / "run", language_model=base_dir)
    torch.testing.assert_close(again(ids, pixel_values=torch.ones(1, 3, 16, 16)).logits, shown[1])
    card = (tmp_path / "run" / "README.md").read_text()
    assert "excitor caption" in card
    assert "that sees through" in card


@pytest.mark.parametrize("checkpointing", [False, True])
def test_half_precision_trains_and_evaluates(world: Path, base_dir: str, tmp_path: Path, checkpointing: bool):
    given = arguments(
        world, base_dir, tmp_path / "run", precision="bf16", gradient_checkpointing=checkpointing, steps=12
    )
    report = train(replace(given, learning_rate=0.03), QUIET)
    assert report["learned"]["change"] < -0.5
    assert {tensor.dtype for tensor in weights(tmp_path / "run").values()} == {torch.float32}


def test_a_batch_of_text_alone_is_no_end_of_training(world: Path, base_dir: str, tmp_path: Path):
    """Visual prompts alone have nothing to learn from it."""
    rows = [
        {"instruction": "Colour?", "output": "red"},
        {"instruction": "Colour?", "output": "red", "image": "red.png"},
    ]
    (tmp_path / "mixed.json").write_text(json.dumps(rows * 4))
    data = {
        "data": [str(tmp_path / "mixed.json")],
        "images": [str(world / "pictures")],
        "batch_size": 1,
        "eval_rows": 1,
    }
    alone = {"num_prompts": 0, "num_local_prompts": 0, "steps": 7}
    train(arguments(world, base_dir, tmp_path / "run", **(data | alone)), QUIET)
    assert any(name.endswith("key_map") for name in weights(tmp_path / "run"))


def test_features_from_disk_train_the_same_adapter(world: Path, base_dir: str, tmp_path: Path):
    make_features(
        FeatureArguments(
            vision_model=str(world / "encoder"), images=[str(world / "pictures")], out=str(tmp_path / "features")
        )
    )
    train(arguments(world, base_dir, tmp_path / "pixels"), QUIET)
    train(arguments(world, base_dir, tmp_path / "stored", features=str(tmp_path / "features")), QUIET)
    pixels, stored = weights(tmp_path / "pixels"), weights(tmp_path / "stored")
    assert any("excitor_visual" in name for name in pixels)
    for name, tensor in pixels.items():
        torch.testing.assert_close(stored[name], tensor, atol=1e-5, rtol=1e-4)


def test_resumed_as_if_never_stopped(world: Path, base_dir: str, tmp_path: Path):
    whole = arguments(world, base_dir, tmp_path / "whole", steps=4, save_steps=2)
    train(whole, QUIET)
    (tmp_path / "whole").rename(tmp_path / "half")
    for name in ("adapter_model.safetensors", "checkpoint-4"):
        path = tmp_path / "half" / name
        path.rename(tmp_path / name)
    train(arguments(world, base_dir, tmp_path / "half", steps=4, save_steps=2, resume=True), QUIET)
    expected = load_file(tmp_path / "adapter_model.safetensors")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(tmp_path / "half").items())


def test_everything_is_checked_before_weights_are_loaded(world: Path, base_dir: str, tmp_path: Path):
    (tmp_path / "broken.png").write_text("no picture")
    (tmp_path / "rows.json").write_text(json.dumps([{"image": "broken.png", "caption": "red"}] * 3))
    broken = {"data": [str(tmp_path / "rows.json")], "eval_rows": 1}
    with pytest.raises(ExcitorError, match=r"1 of 1 pictures cannot be used:\n  .*rows.json, row 1: .*is no picture"):
        prepare(arguments(world, base_dir, tmp_path / "run", **broken))
    prepare(arguments(world, base_dir, tmp_path / "run", check_images=False, **broken))
    text = tmp_path / "text.json"
    text.write_text(json.dumps([{"instruction": "Colour?", "output": "red"}] * 3))
    with pytest.raises(ExcitorError, match=r"No row of .*text.json has a picture"):
        prepare(arguments(world, base_dir, tmp_path / "run", data=[str(text)]))
    lora = tmp_path / "lora.json"
    lora.write_text('{"peft_type": "LORA", "target_modules": ["q_proj"]}')
    with pytest.raises(ExcitorError, match="sees no pictures"):
        prepare(arguments(world, base_dir, tmp_path / "run", adapter_config=str(lora), learning_rate=1e-3))
    with pytest.raises(ExcitorError, match="feature_layer is 9, but the encoder has"):
        prepare(arguments(world, base_dir, tmp_path / "run", feature_layer=9))
    AutoConfig.from_pretrained(world / "encoder").save_pretrained(tmp_path / "empty")
    with pytest.raises(ExcitorError, match="empty holds no weights"):
        prepare(arguments(world, base_dir, tmp_path / "run", vision_model=str(tmp_path / "empty")))
    with pytest.raises(ExcitorError, match="takes no pictures"):
        prepare(arguments(world, base_dir, tmp_path / "run", vision_model=base_dir))
    with pytest.raises(ExcitorError, match="holds no features"):
        prepare(arguments(world, base_dir, tmp_path / "run", features=str(tmp_path)))
    assert not (tmp_path / "run").exists()


def test_options_that_would_do_nothing(tmp_path: Path):
    with pytest.raises(ExcitorError, match="--images, --check-images, --vision-rank would do nothing"):
        TrainArguments(model="m", data=["d"], out="o", images=["i"], check_images=False, vision_rank=4).check()
    with pytest.raises(
        ExcitorError, match=r"--feature-select must be one of full, patch, cls(.|\n)*--packing joins rows"
    ):
        TrainArguments(model="m", data=["d"], out="o", vision_model="v", feature_select="all", packing=True).check()


def test_presets_name_models_and_methods():
    filled = TrainArguments(preset="scienceqa", data=["d"], out="o", vision_model="mine").filled()
    assert (filled.model, filled.vision_model) == ("huggyllama/llama-7b", "mine")
    method = read_method(filled, 1024)
    assert isinstance(method, CombinedConfig)
    excitor, lora = method.parts
    assert (excitor["num_prompts"], excitor["r"], excitor["top_layers"], excitor["vision_width"]) == (30, 16, 30, 1024)
    assert "k_proj" not in lora["target_modules"]
    captions = read_method(TrainArguments(preset="coco-caption").filled(), 1024)
    assert (captions.peft_type, captions.num_local_prompts) == ("EXCITOR", 0)
    assert yaml.safe_load(yaml.safe_dump(filled.to_dict())) == filled.to_dict()
