import json

import peft
import pytest
import torch
from PIL import Image

import excitor
from excitor.vision import ExcitorForConditionalGeneration
from excitor.vision.encoder import read_vision_config
from tiny_vision import SIZE, save_encoder, save_pictures


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> dict[str, str]:
    return save_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def encoder_dir(tmp_path_factory) -> str:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def sighted(base_dir, encoder_dir, tmp_path):
    """A folder with an adapter that sees, by the switches of its configuration and of the model."""

    def save(select="full", encoder=encoder_dir, **switches) -> str:
        torch.manual_seed(1)
        config = excitor.ExcitorConfig(
            r=4,
            **({"num_prompts": 3, "prompt_init_std": 1.0} | switches),
            vision_width=read_vision_config(encoder).hidden_size,
            init_weights=False,
        )
        model = ExcitorForConditionalGeneration.from_frozen(base_dir, encoder, feature_select=select)
        model.name_or_path = base_dir
        adapted = peft.get_peft_model(model, config)
        excitor.save_adapter(adapted, tmp_path / "adapter")
        model.config.save_pretrained(tmp_path / "adapter")
        return str(tmp_path / "adapter")

    return save


def test_numbers_and_drawing(command, sighted, pictures, tmp_path):
    out = tmp_path / "out"
    result = command(
        "inspect", sighted(), "--image", pictures["red"], "--prompt", "What is it?", "--out", out, "--json"
    )
    assert result.code == 0, result.err
    shown = json.loads(result.out)
    assert json.loads((out / "inspection.json").read_text()) == shown
    assert [path.name for path in out.glob("*.png")] == ["picture.png"]
    seen = shown["picture"]
    assert seen["generated"]
    assert seen["grid"] == [2, 2]
    assert seen["layers"] == [0, 1, 2]
    words = seen["words"]
    prompt = "### Instruction:\nWhat is it?\n\n### Response:\n"
    assert "".join(word["text"] for word in words).startswith(prompt)
    assert len(words) > len(prompt) + 1
    assert words[-1]["text"] == "</s>"
    assert sum(word["without"] for word in words) == pytest.approx(1, abs=1e-5)
    assert sum(word["seeing"] for word in words) == pytest.approx(1, abs=1e-5)
    assert max(abs(word["change"]) for word in words) > 1e-3
    for word in words:
        assert word["change"] == pytest.approx(word["seeing"] - word["without"])
        assert word["patches"] + word["other_features"] + word["learnable"] == pytest.approx(word["change"], abs=1e-5)
    mapped = [word for word in words if "map" in word]
    assert len(mapped) == 12
    assert max(words, key=lambda word: word["change"]) in mapped
    for word in mapped:
        assert sum(sum(row) for row in word["map"]) == pytest.approx(word["patches"], abs=1e-6)
    assert sum(seen["sources"].values()) == pytest.approx(1)


def test_the_picture_matters_and_so_do_answer_layer_and_head(command, sighted, pictures):
    folder = sighted(num_prompts=0, num_local_prompts=0)

    def see(colour, *more):
        arguments = ("--image", pictures[colour], "--prompt", "Hi", "--answer", "yes", *more, "--json")
        return json.loads(command("inspect", folder, *arguments).out)["picture"]

    red, blue = see("red"), see("blue")
    assert not red["generated"]
    assert "".join(word["text"] for word in red["words"]).endswith("### Response:\nyes</s>")
    assert red["words"] != blue["words"]
    assert red["sources"]["learnable"] == pytest.approx(0, abs=1e-4)
    assert red["sources"]["patches"] > 0.1 < red["sources"]["other_features"]
    layers = [see("red", "--layer", layer) for layer in range(3)]
    assert [each["layers"] for each in layers] == [[0], [1], [2]]
    assert sum(each["words"][3]["change"] for each in layers) / 3 == pytest.approx(red["words"][3]["change"], abs=1e-6)
    heads = [see("red", "--head", head)["words"][3]["change"] for head in range(4)]
    assert sum(heads) / 4 == pytest.approx(red["words"][3]["change"], abs=1e-6)


def test_patches_alone_leave_nothing_to_other_features(command, sighted, pictures):
    out = command("inspect", sighted("patch"), "--image", pictures["red"], "--prompt", "Hi", "--json").out
    seen = json.loads(out)["picture"]
    assert seen["grid"] == [2, 2]
    assert seen["sources"]["other_features"] == 0


def test_terminal_shows_words_and_asks_what_it_was_trained_for(command, sighted, pictures, tmp_path):
    folder = sighted()
    (tmp_path / "adapter" / "run.yaml").write_text("caption_instruction: Tell me.\ntemplate: verbatim\n")
    out = command("inspect", folder, "--image", pictures["red"], "--answer", "A cat").out
    assert "Given answer: 'A cat'" in out
    assert "vision_width" in out
    assert "parameters: key_map" in out
    rows = [line.split() for line in out.splitlines() if line[:1].isdigit() and "'" in line and "%" not in line]
    changes = [float(row[-5]) for row in rows]
    assert len(changes) == 10
    assert changes == sorted(changes, reverse=True)
    assert changes[0] > 0 > changes[-1]
    shown = command("inspect", folder, "--image", pictures["red"], "--answer", "A cat", "--json").out
    assert "".join(word["text"] for word in json.loads(shown)["picture"]["words"]) == "Tell me.A cat</s>"


def test_mistakes(command, sighted, adapter_dir, pictures, tmp_path):
    folder = sighted(num_prompts=0, num_local_prompts=0)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    red = pictures["red"]
    for arguments, message in [
        ((adapter_dir, "--image", red), "is no adapter that was trained on pictures"),
        ((folder, "--image", tmp_path / "broken.png"), "broken.png is no picture that Pillow can read"),
        ((folder, "--image", tmp_path / "gone.png"), "gone.png does not exist"),
        ((folder, "--image", red, "--text", "x"), "--image is asked about with --prompt, not with --text"),
        ((folder, "--answer", "x"), "--answer belongs to what is measured: give --image too"),
        ((folder, "--image", red, "--answer", " "), "--answer is empty"),
        ((folder, "--image", red, "--layer", 7), "Layer 7 is not adapted"),
        ((folder, "--image", red, "--strength", 0), "at strength 0 a picture changes nothing"),
        ((folder, "--image", red, "--prompt", "a <image> b <image>"), "the question has 2 <image> for 1 pictures"),
        ((folder, "--image", red, "--answer", "a" * 300), "the model's context is 256"),
        ((folder, "--prompt", "Hi"), "has visual prompts alone: without a picture it does nothing. Give --image"),
    ]:
        result = command("inspect", *arguments)
        assert result.code == 2, arguments
        assert message in " ".join(result.err.split()), (arguments, result.err)


def test_class_token_has_no_place(command, sighted, pictures):
    result = command("inspect", sighted("cls"), "--image", pictures["red"])
    assert result.code == 2
    assert "what this adapter sees has no place in the picture" in result.err


def test_drawn_as_the_processor_made_it(tmp_path):
    """A wide picture loses its sides, and colours come back."""
    from excitor.diagnostics.picture_plots import pixels_seen
    from tiny_vision import make_image_processor

    wide = Image.new("RGB", (3 * SIZE, SIZE), (0, 0, 0))
    wide.paste((255, 0, 0), (SIZE, 0, 2 * SIZE, SIZE // 2))
    processor = make_image_processor()
    seen = pixels_seen(processor(images=[wide], return_tensors="pt")["pixel_values"][0], processor)
    assert seen.shape == (SIZE, SIZE, 3)
    expected = torch.zeros(SIZE, SIZE, 3)
    expected[: SIZE // 2, :, 0] = 1
    torch.testing.assert_close(seen, expected, atol=1e-5, rtol=0)
