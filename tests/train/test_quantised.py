"""Runs on a base in 4 or 8 bits: trained, measured, loaded and evaluated the same way."""

import importlib.util
import json

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

import excitor
from excitor.cli.decode import Decoding, load
from excitor.cli.see import see
from excitor.errors import ExcitorError
from excitor.evaluate.arguments import EvalArguments
from excitor.evaluate.likelihood import compare
from excitor.evaluate.run import evaluate
from excitor.evaluate.task import Subject
from excitor.train.arguments import TrainArguments
from excitor.train.prepare import prepare
from excitor.train.run import train
from excitor.train.trainer import make_trainer
from excitor.vision.images import load_image
from excitor.vision.inputs import read_image_processor
from tiny import make_llama, make_tokenizer
from tiny_vision import save_encoder, save_pictures


QUESTION = [{"role": "user", "content": "Say a 3 times"}]
LAYERS = {4: "Linear4bit", 8: "Linear8bitLt"}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A base wide enough for the blocks of NF4."""
    folder = str(tmp_path_factory.mktemp("wide"))
    make_llama(hidden_size=64, intermediate_size=128, head_dim=16).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def key_projection(model) -> torch.nn.Module:
    return next(layer.base_layer for layer in model.modules() if isinstance(layer, excitor.ExcitorLayer))


def test_a_missing_library_is_found_before_anything_is_read(arguments, tmp_path, monkeypatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name))
    with pytest.raises(ExcitorError, match="in 4 bits needs bitsandbytes, which is not installed"):
        prepare(arguments(load_in_4bit=True, data=["/no/such/file.jsonl"]))
    assert not (tmp_path / "out").exists()


def test_both_flags_are_one_too_many(arguments) -> None:
    with pytest.raises(ExcitorError, match="--load-in-4bit and --load-in-8bit are two ways"):
        prepare(arguments(load_in_4bit=True, load_in_8bit=True))


@pytest.mark.parametrize("bits", [4, 8])
def test_trained_measured_and_evaluated_in_the_same_bits(arguments, wide, text, console, tmp_path, bits) -> None:
    pytest.importorskip("bitsandbytes")
    flags = {f"load_in_{bits}bit": True}
    report = train(arguments(model=wide, steps=8, **flags), console)
    out = tmp_path / "out"
    assert report["learned"]["change"] < -0.1
    assert report["environment"]["versions"]["bitsandbytes"]
    assert yaml.safe_load((out / "run.yaml").read_text())[f"load_in_{bits}bit"] is True
    assert f"`{wide}` in {bits} bits" in (out / "README.md").read_text()

    model, _ = excitor.load_adapter(str(out))
    assert type(key_projection(model)).__name__ == LAYERS[bits]
    scores = compare([Subject("trained", model, "default")], prepare(arguments(model=wide, resume=True)).held_out)
    assert torch.cat(scores["trained"].loss).mean().item() == pytest.approx(report["learned"]["adapter"], abs=1e-5)
    full, _ = excitor.load_adapter(str(out), bits=None)
    assert type(key_projection(full)) is torch.nn.Linear

    decoding = Decoding(8, 0.0, 1.0, 0)
    assert type(key_projection(load(str(out), None, 1.0, decoding).model)).__name__ == LAYERS[bits]
    assert type(key_projection(load(str(out), None, 1.0, decoding, False).model)) is torch.nn.Linear

    # Two adapters on one copy of the base, which keeps giving its own losses.
    excitor.save_adapter(model, tmp_path / "second")
    (tmp_path / "second" / "run.yaml").write_text((out / "run.yaml").read_text())
    asked = EvalArguments(
        adapter=[str(out), str(tmp_path / "second")], retain=[text], out=str(tmp_path / "evaluation")
    )
    metrics = evaluate(asked, console)["tasks"]["forgetting"]["metrics"]
    losses = {name: own["loss"]["value"] for name, own in metrics.items()}
    assert losses["base"] == pytest.approx(report["forgotten"]["base"], abs=1e-5)
    assert losses["out"] == losses["second"] == pytest.approx(report["forgotten"]["adapter"], abs=1e-5)


def test_the_adapter_is_trained_in_fp32_on_a_base_in_bf16_and_4_bits(arguments, wide) -> None:
    pytest.importorskip("bitsandbytes")
    model = make_trainer(prepare(arguments(model=wide, load_in_4bit=True, precision="bf16")), []).model
    assert {parameter.dtype for parameter in model.parameters() if parameter.requires_grad} == {torch.float32}
    assert key_projection(model).compute_dtype == torch.bfloat16


def test_a_base_that_is_quantised_already_is_trained_as_it_is(arguments, wide, console, tmp_path) -> None:
    pytest.importorskip("bitsandbytes")
    stored = str(tmp_path / "stored")
    excitor.quantised.load_base(wide, "auto", 4).save_pretrained(stored)
    make_tokenizer().save_pretrained(stored)
    with pytest.raises(ExcitorError, match=r"stored quantised already \(bitsandbytes\)"):
        prepare(arguments(model=stored, load_in_4bit=True))
    report = train(arguments(model=stored, retain=[], retain_documents=3), console)  # the base writes before it learns
    assert report["learned"]["change"] < 0
    assert type(key_projection(excitor.load_adapter(str(tmp_path / "out"))[0])).__name__ == "Linear4bit"
    assert AutoModelForCausalLM.from_pretrained(stored).is_quantized


@pytest.mark.parametrize("bits", [4, 8])
def test_pictures_are_learned_on_a_quantised_base(wide, console, tmp_path, bits) -> None:
    pytest.importorskip("bitsandbytes")
    encoder = save_encoder(tmp_path / "encoder", initializer_range=0.5)
    pictures = save_pictures(tmp_path / "pictures")
    rows = [{"image": f"{colour}.png", "caption": colour} for colour in pictures] * 5
    (tmp_path / "pictures" / "rows.json").write_text(json.dumps(rows))
    given = TrainArguments(
        model=wide,
        vision_model=encoder,
        data=[str(tmp_path / "pictures" / "rows.json")],
        out=str(tmp_path / "out"),
        caption_instruction="Colour?",
        steps=40,
        batch_size=8,
        eval_rows=4,
        retain_documents=1,
        learning_rate=0.03,
        load_in_4bit=bits == 4,
        load_in_8bit=bits == 8,
    )
    report = train(given, console)
    model, tokenizer = excitor.load_adapter(str(tmp_path / "out"))
    assert type(key_projection(model)).__name__ == LAYERS[bits]
    encoder_layer = next(m for m in model.get_base_model().vision_model.modules() if isinstance(m, torch.nn.Linear))
    assert type(encoder_layer) is torch.nn.Linear  # pictures are read in full precision
    processor = read_image_processor(encoder)
    logits = []
    for colour in ("red", "blue"):
        asked = tokenizer("### Instruction:\nColour?\n\n### Response:\n", return_tensors="pt").input_ids
        pixels = processor(images=load_image(pictures[colour]), return_tensors="pt")["pixel_values"]
        logits.append(model(asked, pixel_values=pixels).logits[0, -1])
    assert report["learned"]["change"] < -0.5
    assert (logits[0] - logits[1]).abs().max() > 0.1
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"`{wide}` in {bits} bits" in card
    shown = see([([pictures["red"]], "Colour?")], str(tmp_path / "out"), None, 1.0, 8, 1, None, None)
    assert len(shown) == 1
