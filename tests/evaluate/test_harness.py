import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from rich.progress import Progress

from excitor import ExcitorConfig
from excitor.errors import ExcitorError
from excitor.evaluate.harness import Harness
from excitor.evaluate.task import Subject
from tiny import make_llama


pytest.importorskip("lm_eval")

ROWS = [
    {"question": f"Which is {word}?", "choices": ["red", "green and", "so on"], "answer": index % 3}
    for index, word in enumerate(["best", "the tallest of all", "not", "a colour", "here"])
]


@pytest.fixture
def tasks(tmp_path, monkeypatch) -> Path:
    """Two tasks in a group, and one of perplexity."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "tasks"
    folder.mkdir()
    choice = {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    rolling = {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    }
    reply = {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "",
        "generation_kwargs": {"until": [], "max_gen_toks": 8},
        "metric_list": [{"metric": "exact_match"}],
    }
    shown = choice | {"num_fewshot": 2, "fewshot_split": "test"}  # drawn at random
    named = {"first": choice, "second": choice, "text": rolling, "reply": reply, "shown": shown}
    for name, own in named.items():
        rows = ROWS[:2] if name == "second" else ROWS
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": name} | source | own))
    group = {"group": "both", "task": ["first", "second"], "aggregate_metric_list": [{"metric": "acc"}]}
    (folder / "both.yaml").write_text(yaml.safe_dump(group))
    return folder


def run(harness, subjects, tokenizer):
    harness.check(tokenizer)
    with Progress(disable=True) as progress:
        return harness.run(subjects, tokenizer, progress)


def test_numbers_are_those_of_the_harness_itself(tasks, llama, tokenizer):
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    harness = Harness(["both", "text"], task_path=str(tasks))
    items = run(harness, [Subject("base", llama)], tokenizer)["base"]
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    theirs = simple_evaluate(
        HFLM(llama, tokenizer=tokenizer), tasks=["both", "text"], task_manager=manager, bootstrap_iters=0
    )["results"]
    ours = harness.summarise(items, items)
    expected = {
        "both acc": theirs["both"]["acc,none"],
        "text word_perplexity": theirs["text"]["word_perplexity,none"],
        "text bits_per_byte": theirs["text"]["bits_per_byte,none"],
    }
    assert {name: metric.value for name, metric in ours.items()} == pytest.approx(expected)
    assert all(metric.low <= metric.value <= metric.high for metric in ours.values())
    assert not ours["text word_perplexity"].higher_is_better
    report = harness.report({"base": items})
    assert f"| second acc_norm | {theirs['second']['acc_norm,none']:.4f} [" in report
    assert "| first | Yaml | 0 | 5 |" in report


@pytest.mark.parametrize(
    "config",
    [ExcitorConfig(num_prompts=4, init_weights=False), LoraConfig(target_modules=["v_proj"], init_lora_weights=False)],
    ids=["excitor", "lora"],
)
def test_base_and_adapter_share_a_model(tasks, llama, tokenizer, config):
    plain = run(Harness(["first", "text"], task_path=str(tasks)), [Subject("base", make_llama())], tokenizer)["base"]
    model = get_peft_model(llama, config)
    before = model(torch.arange(9)[None]).logits
    harness = Harness(["first", "text"], task_path=str(tasks))
    items = run(harness, [Subject("base", model), Subject("mine", model, "default")], tokenizer)
    assert items["base"] == plain
    assert [item["id"] for item in items["mine"]] == [item["id"] for item in plain]
    assert items["mine"] != plain
    assert model(torch.arange(9)[None]).logits.equal(before)
    ours, base = harness.summarise(items["base"], items["mine"]), harness.summarise(items["base"], items["base"])
    for name in ("first acc", "text word_perplexity"):
        assert ours[f"{name} change"].value == pytest.approx(ours[name].value - base[name].value)
        assert f"{name} change" not in base
    assert json.loads(json.dumps(items)) == items


def test_the_same_examples_are_shown_to_all(tasks, adapted, tokenizer):
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.mul_(0)
    subjects = [Subject("base", adapted), Subject("same", adapted, "default")]
    items = run(Harness(["shown"], task_path=str(tasks)), subjects, tokenizer)
    assert items["base"] == items["same"]


def test_prompts_are_rendered_as_in_training(tasks, llama, tokenizer, monkeypatch):
    seen = []
    monkeypatch.setattr(type(llama), "generate", lambda self, input_ids, **_: seen.append(input_ids) or input_ids)
    harness = Harness(["reply"], task_path=str(tasks), limit=1, template="auto")
    items = run(harness, [Subject("base", llama)], tokenizer)
    [ids] = seen
    assert tokenizer.decode(ids[0]) == "### Instruction:\nWhich is best?\n\n### Response:\n"
    assert "prompts in the template 'instruction'" in harness.report(items)
    assert tokenizer.chat_template is None


def test_processes_share_requests_and_keep_contexts_together(monkeypatch):
    from excitor.evaluate import harness_model

    requests = [SimpleNamespace(args=(f"context {number // 3}", number)) for number in range(14)]
    state = SimpleNamespace(num_processes=3, process_index=0, is_main_process=True)
    parts = []
    monkeypatch.setattr(harness_model, "this_process", lambda: state)
    monkeypatch.setattr(harness_model, "merge", lambda mine: parts.append(mine) or dict.fromkeys(range(14)))

    def answer(asked: list, disable_tqdm: bool) -> list[str]:
        return [f"answer {request.args[1]}" for request in asked]

    for state.process_index in range(3):
        harness_model._together(answer, requests, disable_tqdm=True)
    contexts = [{requests[place].args[0] for place in part} for part in parts]
    assert sum(map(len, contexts)) == 5
    monkeypatch.setattr(harness_model, "merge", lambda mine: parts[0] | parts[1] | parts[2])
    assert harness_model._together(answer, requests, disable_tqdm=True) == [f"answer {n}" for n in range(14)]


def test_patterns_and_limits(tasks, llama, tokenizer):
    harness = Harness(["fir*", "second"], task_path=str(tasks), limit=1)
    items = run(harness, [Subject("base", llama)], tokenizer)["base"]
    assert [item["id"] for item in items] == ["first/0", "second/0"]
    assert "At most 1 documents of each task." in harness.report({"base": items})


def test_mistakes_are_named(tasks, tokenizer, monkeypatch):
    with pytest.raises(ExcitorError, match=r"no task 'secnd', and .* has both, first, .* text. Did you mean second"):
        Harness(["secnd"], task_path=str(tasks)).check(tokenizer)
    with pytest.raises(ExcitorError, match="is no folder"):
        Harness(["first"], task_path=str(tasks / "first.yaml")).check(tokenizer)
    (tasks / "first.jsonl").unlink()
    with pytest.raises(ExcitorError, match=r"cannot load first: FileNotFoundError: .*first.jsonl"):
        Harness(["first"], task_path=str(tasks)).check(tokenizer)
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    with pytest.raises(ExcitorError, match=r"pip install 'excitor\[eval\]'"):
        Harness(["first"]).check(tokenizer)


def test_numbers_that_are_none_are_an_error(tasks, llama, tokenizer):
    llama.lm_head.weight.data[5] = float("nan")
    with pytest.raises(ExcitorError, match="by 'broken' are not numbers in first, document 0"):
        run(Harness(["first"], task_path=str(tasks)), [Subject("broken", llama)], tokenizer)
    with pytest.raises(ExcitorError, match=r"NaN while it answers the prompt that ends in '.* is best"):
        run(Harness(["reply"], task_path=str(tasks), limit=1), [Subject("broken", llama)], tokenizer)


def test_replies_need_room(tasks, tokenizer):
    with pytest.raises(ExcitorError, match="reply leaves room for replies of 8 tokens, and the models read only 8"):
        run(
            Harness(["reply"], task_path=str(tasks)),
            [Subject("base", make_llama(max_position_embeddings=8))],
            tokenizer,
        )


def test_a_pad_token_is_not_left_in_the_tokenizer(tasks, llama, tokenizer):
    tokenizer.pad_token = None
    run(Harness(["second"], task_path=str(tasks)), [Subject("base", llama)], tokenizer)
    assert tokenizer.pad_token is None
