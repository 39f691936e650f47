import json
from pathlib import Path

import pytest
import torch

from excitor import ExcitorConfig, ExcitorError
from excitor.vision.loading import read_sight
from excitor.vision.model import ExcitorForConditionalGeneration
from tiny import make_tokenizer
from tiny_vision import save_encoder, save_pictures


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return save_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def seeing_dir(base_dir: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An adapter that was not trained, but through which what is answered depends on the picture."""
    folder = tmp_path_factory.mktemp("seeing")
    encoder = save_encoder(folder / "encoder", initializer_range=0.5)
    torch.manual_seed(0)
    config = ExcitorConfig(r=4, num_prompts=3, init_weights=False, gate="none", prompt_init_std=3.0)
    model = ExcitorForConditionalGeneration.from_frozen(base_dir, encoder, config)
    model.save_pretrained(folder / "adapter")
    make_tokenizer().save_pretrained(folder / "adapter")
    (folder / "adapter" / "run.yaml").write_text("template: instruction\ncaption_instruction: Colour?\n")
    return str(folder / "adapter")


def test_caption_answers_do_not_depend_on_the_batch(command, pictures, seeing_dir):
    options = ("--adapter", seeing_dir, "--max-new-tokens", "4", "--json")
    together = command("caption", *pictures.values(), *options)
    assert together.code == 0, together.err
    answers = [json.loads(line) for line in together.out.splitlines() if line.startswith("{")]
    assert [answer["image"] for answer in answers] == list(pictures.values())
    alone = command("caption", *pictures.values(), *options, "--batch-size", "1")
    assert [json.loads(line) for line in alone.out.splitlines() if line.startswith("{")] == answers
    assert len({answer["caption"] for answer in answers}) > 1


def test_caption_asks_what_was_asked_in_training(command, pictures, seeing_dir):
    options = ("--adapter", seeing_dir, "--max-new-tokens", "4")
    plain = command("caption", pictures["red"], *options)
    assert command("caption", pictures["red"], *options, "--instruction", "Colour?").out == plain.out
    assert command("ask", pictures["red"], "Colour?", *options).out == plain.out
    assert command("caption", pictures["red"], *options, "--instruction", "A long story, please.").out != plain.out


def test_an_empty_instruction_is_refused(command, pictures, seeing_dir):
    result = command("caption", pictures["red"], "--adapter", seeing_dir, "--instruction", " ")
    assert result.code == 2
    assert "--instruction is empty" in result.err


def test_ask_about_several_pictures(command, pictures, seeing_dir):
    options = ("--adapter", seeing_dir, "--max-new-tokens", "4", "--json")
    result = command("ask", pictures["red"], pictures["blue"], "<image> or <image>?", *options)
    answer = json.loads(next(line for line in result.out.splitlines() if line.startswith("{")))
    assert answer["images"] == [pictures["red"], pictures["blue"]]
    wrong = command("ask", pictures["red"], "<image> or <image>?", *options)
    assert wrong.code == 2
    assert "2 <image> for 1 pictures" in wrong.err


def test_what_cannot_be_seen_is_said_before_models_are_loaded(command, pictures, seeing_dir, adapter_dir, tmp_path):
    (tmp_path / "broken.png").write_text("no picture")
    result = command("caption", pictures["red"], tmp_path / "broken.png", "--adapter", seeing_dir)
    assert (result.code, "1 of 2 pictures cannot be used" in result.err) == (2, True)
    assert "was trained on pictures" in command("ask", pictures["red"], "What?", "--adapter", adapter_dir).err
    assert "question is empty" in command("ask", pictures["red"], " ", "--adapter", seeing_dir).err
    assert "more than the model's context" in command("ask", pictures["red"], "?" * 300, "--adapter", seeing_dir).err


def test_an_adapter_that_sees_answers_text_too(command, seeing_dir):
    result = command("generate", "Colour?", "--adapter", seeing_dir, "--max-new-tokens", "4")
    assert result.code == 0, result.err


def evaluation(command, folder: Path, *arguments):
    result = command("eval", *arguments, "--out", folder, "--retain-documents", "1")
    assert result.code == 0, result.err
    return json.loads((folder / "results.json").read_text())["tasks"], result


def test_captions_are_scored(command, pictures, seeing_dir, tmp_path):
    folder = Path(pictures["red"]).parent
    said = command("caption", *pictures.values(), "--adapter", seeing_dir, "--max-new-tokens", "64", "--json")
    own = [json.loads(line) for line in said.out.splitlines() if line.startswith("{")]
    references = [{"image": answer["image"], "caption": answer["caption"] + " indeed"} for answer in own]
    (tmp_path / "references.json").write_text(json.dumps(references))
    arguments = ("--adapter", seeing_dir, "--captions", tmp_path / "references.json", "--images", folder)
    tasks, result = evaluation(command, tmp_path / "evaluation", *arguments)
    metrics = tasks["captions"]["metrics"]
    assert metrics["adapter"]["Bleu_1"]["value"] > metrics["base"]["Bleu_1"]["value"]
    assert metrics["adapter"]["ROUGE_L change"]["value"] > 0
    assert "'Colour?'" in " ".join(result.out.split())
    assert tasks["captions"]["items"] == 4


def test_scienceqa_with_its_images(command, pictures, seeing_dir, tmp_path):
    problem = {
        "question": "Which colour?",
        "choices": ["red", "blue"],
        "answer": 0,
        "hint": "",
        "grade": "grade2",
        "subject": "natural science",
        "split": "test",
    }
    problems = {"1": problem | {"image": "image.png"}, "2": problem | {"image": None}}
    (tmp_path / "problems.json").write_text(json.dumps(problems))
    (tmp_path / "pid_splits.json").write_text(json.dumps({"test": ["1", "2"]}))
    options = ("--adapter", seeing_dir, "--scienceqa", tmp_path, "--scienceqa-images")
    missing = command("eval", *options, "--out", tmp_path / "evaluation")
    assert "problem 1: the picture" in missing.err
    (tmp_path / "images" / "test" / "1").mkdir(parents=True)
    (tmp_path / "images" / "test" / "1" / "image.png").write_bytes(Path(pictures["red"]).read_bytes())
    tasks, result = evaluation(command, tmp_path / "evaluation", *options)
    assert tasks["scienceqa"]["items"] == 2
    assert "1 of them have an image, which was shown" in " ".join(result.out.split())


def test_an_adapter_without_eyes_is_not_asked_about_pictures(command, adapter_dir, tmp_path):
    result = command(
        "eval", "--adapter", adapter_dir, "--captions", "references.json", "--out", tmp_path / "evaluation"
    )
    assert result.code == 2
    assert "--captions needs an adapter that was trained on pictures" in " ".join(result.err.split())
    alone = command("eval", "--model", "m", "--captions", "references.json", "--out", tmp_path / "evaluation")
    assert "--captions needs an --adapter" in alone.err


def test_pictures_are_not_left_out_in_silence(command, seeing_dir, pictures, tmp_path):
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([{"image": pictures["red"], "instruction": "Colour?", "output": "red"}]))
    result = command("eval", "--adapter", seeing_dir, "--data", rows, "--out", tmp_path / "evaluation")
    assert (result.code, "names pictures (image), which are not shown there" in " ".join(result.err.split())) == (
        2,
        True,
    )


def test_an_encoder_that_is_not_registered_is_named(tmp_path):
    config = {"model_type": "excitor_vision", "vision_config": {"model_type": "no_such_encoder"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExcitorError, match=r"an encoder that transformers does not know .*no_such_encoder"):
        read_sight(tmp_path)
