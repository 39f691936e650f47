import json
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForImageTextToText, LlamaForCausalLM

from excitor import CombinedConfig, ExcitorConfig, ExcitorError
from excitor.vision import ExcitorForConditionalGeneration, ExcitorVisionConfig
from tiny import make_encoder, make_llama


TOKENS = torch.randint(3, 259, (3, 7), generator=torch.Generator().manual_seed(1))
MASK = torch.ones_like(TOKENS)
PIXELS = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(2))
COUNTS = torch.tensor([1, 0, 2])
INPUTS = {"input_ids": TOKENS, "attention_mask": MASK, "pixel_values": PIXELS, "num_images": COUNTS}
GENERATE = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
LORA = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}


def make_model(config=None, **changes) -> ExcitorForConditionalGeneration:
    config = config or ExcitorConfig(r=4, num_prompts=3, init_weights=False, gate="none")
    return ExcitorForConditionalGeneration.from_frozen(make_llama(), make_encoder(), config, **changes).eval()


@pytest.fixture
def folders(tmp_path: Path) -> tuple[str, str]:
    make_llama().save_pretrained(tmp_path / "text")
    make_encoder().save_pretrained(tmp_path / "vision")
    return str(tmp_path / "text"), str(tmp_path / "vision")


def test_only_the_adapter_trains_and_every_part_of_it_does() -> None:
    model = make_model().train()
    assert not model.vision_model.training
    model(**INPUTS, labels=TOKENS).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == ("excitor_" in name), name
        assert (parameter.grad is not None) == parameter.requires_grad, name
    trained = {name.rpartition(".")[2] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"key_map", "value_map", "prompts", "local", "A", "B"}


def test_rows_do_not_depend_on_their_neighbours_pictures() -> None:
    model = make_model()
    together = model(**INPUTS).logits
    for row, pictures in enumerate(PIXELS.split(COUNTS.tolist())):
        given = {"pixel_values": pictures, "num_images": COUNTS[row : row + 1]} if len(pictures) else {}
        alone = model(TOKENS[row : row + 1], MASK[row : row + 1], **given).logits
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=1e-5)
    other = model(**INPUTS | {"pixel_values": PIXELS.flip(0)}).logits
    assert not torch.allclose(other[0], together[0], atol=1e-3)
    assert not torch.allclose(other[2], together[2], atol=1e-3)


def test_without_pictures_and_learnable_prompts_it_is_the_language_model_bit_for_bit() -> None:
    model = make_model(ExcitorConfig(r=4, num_prompts=0, num_local_prompts=0, vision_width=24, init_weights=False))
    expected = make_llama()(TOKENS).logits
    assert torch.equal(model(TOKENS).logits, expected)
    assert torch.equal(model(**INPUTS).logits[1], expected[1])
    tokens = make_llama().generate(TOKENS, **GENERATE)
    assert torch.equal(model.generate(TOKENS, attention_mask=MASK, **GENERATE), tokens)


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"cache_implementation": "static"}])
def test_cached_decoding_is_exact(settings: dict) -> None:
    model = make_model()
    cached = model.generate(**INPUTS, **GENERATE, **settings)
    uncached = model.generate(**INPUTS, **GENERATE, **(settings | {"cache_implementation": None}), use_cache=False)
    assert torch.equal(cached, uncached)


def test_left_padding_changes_no_token() -> None:
    model = make_model()
    nothing = torch.zeros_like(TOKENS[:, :2])
    padded = {"input_ids": torch.cat([nothing, TOKENS], 1), "attention_mask": torch.cat([nothing, MASK], 1)}
    tokens = model.generate(**INPUTS | padded, **GENERATE)
    assert torch.equal(tokens[:, 2:], model.generate(**INPUTS, **GENERATE))


def test_features_are_computed_once_for_all_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    calls: list[int] = []
    encode = model.encode_images
    monkeypatch.setattr(model, "encode_images", lambda pixels: calls.append(len(pixels)) or encode(pixels))
    tokens = model.generate(**INPUTS, **GENERATE)
    assert calls == [3]
    features = encode(PIXELS)
    again = model.generate(TOKENS, attention_mask=MASK, image_features=features, num_images=COUNTS, **GENERATE)
    assert calls == [3]
    assert torch.equal(tokens, again)
    named = model.generate(
        inputs=TOKENS, attention_mask=MASK, image_features=features, num_images=COUNTS.tolist(), **GENERATE
    )
    assert torch.equal(named, tokens)
    with pytest.raises(ExcitorError, match="input_ids or inputs, not both"):
        model.generate(TOKENS, inputs=TOKENS)


def test_gradient_checkpointing_sees_the_same_pictures() -> None:
    model = make_model().train()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model(**INPUTS, labels=TOKENS).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)
    with pytest.raises(ExcitorError, match="use_reentrant=False"):
        model.gradient_checkpointing_enable({"use_reentrant": True})
    for reentrant in (False, True):
        inner = make_model().train()
        inner.language_model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        with pytest.raises(ExcitorError, match="switched on at the language model, which forgets the pictures"):
            inner(**INPUTS)


@pytest.mark.parametrize("combined", [False, True])
def test_saving_writes_what_was_trained_and_loading_finds_the_rest(folders, tmp_path: Path, combined: bool) -> None:
    excitor = {"peft_type": "EXCITOR", "r": 4, "init_weights": False}
    config = CombinedConfig(parts=[excitor, LORA]) if combined else ExcitorConfig(r=4, init_weights=False)
    model = ExcitorForConditionalGeneration.from_frozen(*folders, config, feature_select="patch").eval()
    model.save_pretrained(tmp_path / "trained")
    written = {path.name for path in (tmp_path / "trained").iterdir()}
    assert {"config.json", "adapter_config.json", "adapter_model.safetensors"} <= written
    assert not any(name.startswith("model") for name in written)
    stored = json.loads((tmp_path / "trained" / "config.json").read_text())
    assert (stored["language_model"], stored["vision_model"]) == folders
    expected = model(**INPUTS).logits
    for load in (ExcitorForConditionalGeneration, AutoModelForImageTextToText):
        loaded = load.from_pretrained(tmp_path / "trained")
        assert loaded.config.feature_select == "patch"
        assert torch.equal(loaded(**INPUTS).logits, expected)


def test_an_adapter_put_on_by_peft_is_the_same(folders, tmp_path: Path) -> None:
    base = ExcitorForConditionalGeneration.from_frozen(*folders)
    adapted = get_peft_model(base, ExcitorConfig(r=4, init_weights=False, task_type="CAUSAL_LM")).eval()
    assert adapted.peft_config["default"].vision_width == 24
    expected, tokens = adapted(**INPUTS).logits, adapted.generate(**INPUTS, **GENERATE)
    with adapted.disable_adapter():
        assert torch.equal(adapted(**INPUTS).logits, make_llama()(TOKENS, MASK).logits)
    adapted.save_pretrained(tmp_path / "trained")
    base.config.save_pretrained(tmp_path / "trained")
    loaded = ExcitorForConditionalGeneration.from_pretrained(tmp_path / "trained")
    assert torch.equal(loaded(**INPUTS).logits, expected)
    assert torch.equal(loaded.generate(**INPUTS, **GENERATE), tokens)


def test_the_encoders_attention_is_left_alone() -> None:
    """The text part alone is adapted, though the encoder has layers of the same name."""
    model = make_model()
    assert not any("excitor" in name for name, _ in model.vision_model.named_modules())
    assert isinstance(model.language_model, LlamaForCausalLM)


def test_a_configuration_alone_makes_a_model() -> None:
    config = ExcitorVisionConfig(make_llama().config, make_encoder().config)
    with torch.device("meta"):
        model = ExcitorForConditionalGeneration(config)
    adapted = get_peft_model(model, ExcitorConfig(r=4, vision_rank=2))
    assert adapted.get_nb_trainable_parameters()[0] == 3 * (
        32 * 4 + 4 * 24 + 30 * 24 + 4 * 2 * 24 + 2 + 24 * 2 + 2 * 2 * 24
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_images": [2, -1, 2]}, "num_images must be a whole number of at least 0 for each row"),
        ({"num_images": [[1, 1, 1]]}, "num_images must be a whole number"),
        ({"num_images": [1.0, 1.0, 1.0]}, "num_images must be a whole number"),
        ({"num_images": torch.tensor([1, 1])}, "num_images speaks of 2 rows, but there are 3"),
        ({"num_images": torch.tensor([1, 1, 0])}, "counts 2 pictures, but 3 were given"),
        ({"num_images": None, "pixel_values": PIXELS[:2]}, "2 pictures for 3 rows"),
        ({"pixel_values": None}, "counts 3 pictures, but 0 were given"),
        ({"image_features": torch.randn(3, 4, 24)}, "not both"),
        ({"pixel_value": PIXELS}, "no argument pixel_value: pictures are pixel_values or image_features"),
        ({"pixel_values": torch.randn(3, 3, 20, 16)}, "20 x 16 pixels, but the vision encoder takes 16 x 16"),
    ],
)
def test_pictures_that_do_not_add_up_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ExcitorError, match=message):
        make_model()(**INPUTS | changes)


def test_what_does_not_fit_is_refused(folders, tmp_path: Path) -> None:
    with pytest.raises(ExcitorError, match=r"vision_width is 99, but .* are 24 wide"):
        make_model(ExcitorConfig(vision_width=99))
    blind = ExcitorForConditionalGeneration.from_frozen(make_llama(), make_encoder())
    with pytest.raises(ExcitorError, match="no adapter that could see them"):
        blind(**INPUTS)
    with pytest.raises(ExcitorError, match="nothing trained to save"):
        blind.save_pretrained(tmp_path / "blind")
    with pytest.raises(ExcitorError, match="'llama', which takes no pictures"):
        ExcitorForConditionalGeneration.from_frozen(folders[0], folders[0])
    with pytest.raises(ExcitorError, match=r"vision model .*nowhere is neither a folder"):
        ExcitorForConditionalGeneration.from_frozen(folders[0], str(tmp_path / "nowhere"))
    with pytest.raises(ExcitorError, match=r"language model .*vision is neither"):
        ExcitorForConditionalGeneration.from_frozen(folders[1], folders[1])
    make_model().save_pretrained(tmp_path / "nameless")
    with pytest.raises(ExcitorError, match="does not name its language model"):
        ExcitorForConditionalGeneration.from_pretrained(tmp_path / "nameless")
    with pytest.raises(ExcitorError, match=r"vision_width|does not fit"):
        ExcitorForConditionalGeneration.from_pretrained(
            tmp_path / "nameless", language_model=make_llama(), vision_model=make_encoder(hidden_size=32)
        )
    with pytest.raises(ExcitorError, match="expected an ExcitorVisionConfig"):
        ExcitorForConditionalGeneration.from_pretrained(folders[0])
