import io
import json
import shutil
import sys

import torch
from transformers import AutoModelForCausalLM

import excitor
from excitor.cli.decode import Decoding, Responder, load
from excitor.data.encoding import encode_prompt
from tiny import make_tokenizer


QUESTION = [{"role": "user", "content": "Name a river."}]
GREEDY = Decoding(max_new_tokens=12, temperature=0.0, top_p=1.0, seed=0)


def greedy_by_hand(model, tokens: list[int], steps: int) -> str:
    """Without cache, one full forward for each token."""
    start = len(tokens)
    for _ in range(steps):
        with torch.no_grad():
            token = int(model(torch.tensor([tokens])).logits[0, -1].argmax())
        tokens = [*tokens, token]
        if token == 2:
            break
    return make_tokenizer().decode(tokens[start:], skip_special_tokens=True).strip()


def test_answers_are_those_of_the_model(adapter_dir, base_dir):
    responder = load(adapter_dir, None, 1.0, GREEDY)
    prompt = encode_prompt(QUESTION, make_tokenizer())
    base = AutoModelForCausalLM.from_pretrained(base_dir)
    adapted, _ = excitor.load_adapter(adapter_dir)
    assert responder.answer(QUESTION) == greedy_by_hand(adapted, prompt, 12)
    assert responder.answer(QUESTION, base=True) == greedy_by_hand(base, prompt, 12)
    assert responder.answer(QUESTION) != responder.answer(QUESTION, base=True)
    assert load(adapter_dir, None, 0.0, GREEDY).answer(QUESTION) == responder.answer(QUESTION, base=True)


def test_draws_follow_the_seed(adapter_dir):
    def answer(seed: int) -> str:
        return load(adapter_dir, None, 1.0, Decoding(12, 2.0, 1.0, seed)).answer(QUESTION)

    assert answer(1) == answer(1)
    assert answer(1) != answer(2)


def test_a_tiny_top_p_is_greedy(adapter_dir):
    drawn = load(adapter_dir, None, 1.0, Decoding(12, 2.0, 1e-6, 0)).answer(QUESTION)
    assert drawn == load(adapter_dir, None, 1.0, GREEDY).answer(QUESTION)


def test_answers_end_where_answers_in_training_end(adapter_dir, monkeypatch):
    """A chat template may end answers with a token that is not the base model's EOS."""
    model, tokenizer = excitor.load_adapter(adapter_dir)
    tokenizer.add_special_tokens({"additional_special_tokens": ["a"]})
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}a{% endfor %}"
    given = {}
    monkeypatch.setattr(model, "generate", lambda **options: given.update(options) or options["input_ids"])
    Responder(model, tokenizer, "auto", GREEDY).answer(QUESTION)
    assert set(given["eos_token_id"]) == {2, tokenizer.convert_tokens_to_ids("a")}


def test_command_prints_and_streams(command, adapter_dir):
    responder = load(adapter_dir, None, 1.0, GREEDY)
    arguments = ["generate", "--adapter", adapter_dir, "--max-new-tokens", 12, "Name a river."]
    assert command(*arguments).out.strip() == responder.answer(QUESTION)
    out = command(*arguments, "--compare-base").out
    assert out.index("[base]") < out.index(responder.answer(QUESTION, base=True)) < out.index("[adapter]")
    assert out.strip().endswith(responder.answer(QUESTION))


def test_json_lines(command, adapter_dir):
    responder = load(adapter_dir, None, 0.5, GREEDY)
    result = command(
        "generate", "--adapter", adapter_dir, "--max-new-tokens", 12, "--strength", 0.5, "--compare-base", "--json",
        "Name a river.", "Café?",
    )  # fmt: skip
    first, second = (json.loads(line) for line in result.out.splitlines())
    assert first == {
        "instruction": "Name a river.",
        "strength": 0.5,
        "base": responder.answer(QUESTION, base=True),
        "adapter": responder.answer(QUESTION),
    }
    assert second["instruction"] == "Café?"


def test_instruction_from_standard_input(command, adapter_dir, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Name a\nriver.\n"))
    result = command("generate", "--adapter", adapter_dir, "--max-new-tokens", 2, "--json", "-")
    assert json.loads(result.out)["instruction"] == "Name a\nriver."


def test_template_of_the_training_run_is_used(adapter_dir, tmp_path):
    folder = shutil.copytree(adapter_dir, tmp_path / "run")
    (folder / "run.yaml").write_text("template: instruction\n")
    assert load(str(folder), None, 1.0, GREEDY).template == "instruction"
    assert load(adapter_dir, None, 1.0, GREEDY).template == "auto"


def test_another_method_answers_too(command, lora_dir):
    assert command("generate", "--adapter", lora_dir, "--max-new-tokens", 2, "hi").code == 0
    result = command("generate", "--adapter", lora_dir, "--strength", 0.5, "hi")
    assert result.code == 2
    assert "Excitor" in result.err


def test_the_system_speaks_first(adapter_dir):
    plain, told = load(adapter_dir, None, 1.0, GREEDY), load(adapter_dir, None, 1.0, GREEDY, system="Be brief.")
    words = told.tokenizer.decode(told._encode(QUESTION))
    assert words.index("Be brief.") < words.index(QUESTION[0]["content"])
    assert told.excess(QUESTION) > plain.excess(QUESTION)
