import io
import json
import random
import subprocess
import sys

import pytest
import torch
from rich.console import Console
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

from excitor.cli import main
from excitor.mini.vision import ENCODER_DIR, TEXT_DIR
from excitor.mini.vision.demo import link, run_vision_demo
from excitor.mini.vision.digits import TRAINED, load_digits
from excitor.mini.vision.evaluate import answer, blind_share, share_right, shuffled, text_changes
from excitor.mini.vision.lessons import TESTS, Lessons, make_lessons
from excitor.mini.vision.train import Rows, encode_rows, make_batch, train_channel
from excitor.mini.vision.words import page, retain_pages
from excitor.vision import ExcitorForConditionalGeneration


def few(lessons: Lessons) -> Lessons:
    """A few rows of each kind."""
    tests = {name: rows[:12] for name, rows in lessons.tests.items()}
    return Lessons(lessons.captions[:40], lessons.questions[:40], lessons.digits[:40], tests)


@pytest.fixture(scope="module")
def lessons() -> Lessons:
    return few(make_lessons(3))


@pytest.fixture(scope="module")
def parts():
    return AutoTokenizer.from_pretrained(TEXT_DIR), AutoImageProcessor.from_pretrained(ENCODER_DIR)


def test_what_is_shipped_is_small():
    assert sum(file.stat().st_size for file in ENCODER_DIR.iterdir()) < 2_000_000
    assert sum(file.stat().st_size for file in TEXT_DIR.iterdir()) < 4_000_000


def test_the_encoder_is_an_ordinary_vision_model(lessons, parts):
    encoder = AutoModel.from_pretrained(ENCODER_DIR, dtype=torch.float32)
    pictures = [row.picture for row in lessons.captions[:3]]
    tokens = encoder(**parts[1](images=pictures, return_tensors="pt")).last_hidden_state
    assert tokens.shape == (3, 17, AutoConfig.from_pretrained(ENCODER_DIR).hidden_size)
    assert (tokens[0] - tokens[1]).abs().max() > 0.1


def test_every_token_of_a_held_out_digit_tells_which_one_it_is(parts):
    pictures, digits = load_digits()
    encoder, labels = AutoModel.from_pretrained(ENCODER_DIR, dtype=torch.float32), torch.tensor(digits)
    with torch.no_grad():
        tokens = encoder(**parts[1](images=pictures, return_tensors="pt")).last_hidden_state
    features = torch.nn.functional.layer_norm(tokens, tokens.shape[-1:])
    means = torch.stack([features[:TRAINED][labels[:TRAINED] == digit].mean(0) for digit in range(10)])
    nearest = (features[TRAINED:, None] - means).square().sum(-1).argmin(1)  # (450, tokens)
    right = (nearest == labels[TRAINED:, None]).float().mean(0)
    assert right.min() > 0.95


def test_the_text_model_has_a_token_for_each_word(parts):
    tokenizer, _ = parts
    rng = random.Random(2)
    for _ in range(200):
        text = page(rng)
        ids = tokenizer(text).input_ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert len(ids) <= 1 + len(text.split()) + sum(text.count(mark) for mark in ".,:?\n")


def test_only_answers_are_learned_and_rows_keep_their_pictures(lessons, parts):
    tokenizer, image_processor = parts
    pools = [
        encode_rows(link(), image_processor, rows) for rows in (lessons.captions, lessons.questions, lessons.digits)
    ]
    batch = make_batch(tokenizer, pools, 16, random.Random(0))
    pictures = {
        feature.numpy().tobytes(): row.picture
        for pool in pools
        for feature, row in zip(pool.features, pool.rows, strict=True)
    }
    for tokens, labels, features in zip(batch["input_ids"], batch["labels"], batch["image_features"], strict=True):
        learned = tokenizer.decode(labels[labels != -100])
        prompt = tokenizer.decode(tokens, skip_special_tokens=True).split("Reply:")[0] + "Reply:"
        assert learned.endswith(tokenizer.eos_token)
        # A picture is asked about more than once: its scene must be the one that the answer is about.
        pictured = pictures[features.numpy().tobytes()]
        answers = {
            (row.asked.prompt, f" {row.asked.answer}{tokenizer.eos_token}")
            for pool in pools
            for row in pool.rows
            if row.picture is pictured
        }
        assert (prompt, learned) in answers


def test_another_picture_is_one_of_the_same_question(lessons):
    rows = lessons.tests["questions unseen"] + lessons.tests["digits"]
    places = torch.arange(len(rows))[:, None, None]
    wrong = shuffled(Rows(rows, places)).features.flatten().tolist()
    assert sorted(wrong) == list(range(len(rows)))
    for place, other in enumerate(wrong):
        assert rows[place].asked.question == rows[other].asked.question
    digits = range(12, 24)
    assert all(wrong[place] != place for place in digits)


def test_shares(lessons):
    rows = lessons.tests["digits"]
    answers = [row.asked.answer for row in rows]
    assert share_right(rows, answers) == 1
    assert share_right(rows, [*answers[:6], *["no"] * 6]) == 0.5
    assert blind_share(rows) == max(answers.count(each) for each in answers) / 12


def test_training_moves_the_link_alone_and_text_stays(lessons, parts):
    tokenizer, image_processor = parts
    torch.manual_seed(0)
    model = link()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses = list(train_channel(model, tokenizer, lessons, image_processor, steps=12, seed=0, batch_size=8))
    assert len(losses) == 12
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all("excitor_" in name for name in changed)
    assert text_changes(model, tokenizer, retain_pages(20)) == {"loss": 0.0, "logits": 0.0}
    rows = encode_rows(model, image_processor, lessons.tests["captions unseen"])
    with torch.no_grad():
        batch = tokenizer([row.asked.prompt for row in rows.rows], return_tensors="pt")
        assert not torch.equal(model(**batch, image_features=rows.features).logits, model(**batch).logits)
    model.disable_adapters()
    base = answer(model, tokenizer, rows, look=False)
    model.enable_adapters()
    assert answer(model, tokenizer, rows, look=False) == base


def test_text_changes_can_see_a_change(parts):
    model = link()
    tokenizer, _ = parts
    with torch.no_grad():
        layer = model.language_model.model.layers[0].self_attn.k_proj
        layer.register_forward_hook(lambda module, _, keys: keys if module.disable_adapters else keys + 1)
    changes = text_changes(model, tokenizer, retain_pages(10))
    assert changes["logits"] > 0
    assert changes["loss"] != 0


def test_the_demo_writes_what_it_shows(tmp_path, lessons, parts, monkeypatch):
    monkeypatch.setattr("excitor.mini.vision.demo.make_lessons", lambda seed: lessons)
    console = Console(file=io.StringIO(), width=140)
    result = run_vision_demo(console, steps=2, out=tmp_path)
    shown = console.file.getvalue()
    assert result == json.loads((tmp_path / "demo.json").read_text())
    assert (tmp_path / "demo.png").stat().st_size > 0
    assert all(title in shown for title in TESTS.values())
    assert result["text"] == {"loss": 0.0, "logits": 0.0}
    assert len(result["loss"]) == 2
    loaded = ExcitorForConditionalGeneration.from_pretrained(tmp_path / "adapter", dtype=torch.float32)
    rows = lessons.tests["digits"]
    replies = answer(loaded, parts[0], encode_rows(loaded, parts[1], rows))
    assert share_right(rows, replies) == result["accuracy"]["digits"]["looking"]


def test_export_has_nothing_to_do_with_vision(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        main(["demo", "--vision", "--export", str(tmp_path / "world")])
    assert left.value.code == 2
    assert "leave one out" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "world").exists()


def test_it_can_be_linked_from_the_console_script():
    """There ``import excitor`` brings nothing along, so that ``--help`` stays fast."""
    code = "import excitor_cli; from excitor.mini.vision.demo import link; print(link()._sees())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.stdout.strip() == "True", found.stderr
