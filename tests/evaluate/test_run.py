import io
import json
import math
import os
import shlex
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from excitor.errors import ExcitorError
from excitor.evaluate.arguments import EvalArguments
from excitor.evaluate.plan import plan
from excitor.evaluate.run import evaluate
from excitor.evaluate.subjects import Lineup, read_lineup
from tiny import make_llama


@pytest.fixture
def lora(base_dir, tmp_path) -> str:
    return make_lora(base_dir, tmp_path / "lora", seed=0)


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
    (tmp_path / "trees.txt").write_text("\n\n".join(f"Oak number {n} grows slowly." for n in range(12)))
    (tmp_path / "rivers.txt").write_text("\n\n".join(f"River {n} is wide." for n in range(9)))
    row = '{"instruction": "Name river %d.", "input": "", "output": "The Elbe."}\n'
    (tmp_path / "rows.jsonl").write_text("".join(row % number for number in range(5)))
    return {name: str(tmp_path / name) for name in ("trees.txt", "rivers.txt", "rows.jsonl")}


@pytest.fixture
def arguments(lora, files, tmp_path):
    def make(**changes) -> EvalArguments:
        texts = [files["trees.txt"], files["rivers.txt"]]
        given = {"adapter": [lora], "retain": texts, "data": [files["rows.jsonl"]], "out": str(tmp_path / "out")}
        return EvalArguments(**(given | {"max_length": 64} | changes))

    return make


def make_lora(base_dir: str, folder: Path, seed: int) -> str:
    base = make_llama()
    base.name_or_path = base_dir
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    peft.get_peft_model(base, config).save_pretrained(str(folder))
    return str(folder)


def run(arguments: EvalArguments) -> tuple[dict, str]:
    console = Console(width=160, record=True, file=io.StringIO())
    return evaluate(arguments, console), console.export_text()


def test_unknown_characters_are_pointed_out_once(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr("excitor.evaluate.run.unknown_share", lambda rows, tokenizer: 0.25 if list(rows) else 0)
    results, printed = run(arguments())
    [warning] = results["warnings"]
    assert "forgetting 25.00%, learned 25.00%" in warning
    assert printed.count("Warning: Some characters") == 1
    assert f"**Warning:** {warning}" in (tmp_path / "out" / "README.md").read_text()


def test_instructions_are_gated_file_by_file(arguments, files, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text(Path(files["rows.jsonl"]).read_text().replace("Elbe", "Weser"))
    results, _ = run(arguments(data=[files["rows.jsonl"], str(other)], min_gain=1e3))
    assert results["verdict"] is not None
    assert [check["metric"] for check in results["verdict"]["checks"]] == [
        f"answer loss change{part}" for part in ("", ", rows.jsonl", ", other.jsonl")
    ]


def test_an_evaluation_leaves_everything_behind(arguments, lora, tmp_path):
    results, printed = run(arguments(max_forgetting=1e3, min_gain=1e3))
    out = tmp_path / "out"
    assert json.loads((out / "results.json").read_text()) == results
    assert results["subjects"] == {"base": base_of(lora), "lora": lora}
    assert results["warnings"] == []
    assert list(results["tasks"]) == ["forgetting", "learned"]
    change = results["tasks"]["forgetting"]["metrics"]["lora"]["loss change"]
    assert change["low"] < change["value"] < change["high"]
    assert f"{change['value']:+.4f}" in printed
    assert {"trees.txt", "rivers.txt"} <= {Path(name).name for name in definition(results)["files_sha256"]}
    lines = [json.loads(line) for line in (out / "forgetting.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * results["tasks"]["forgetting"]["items"]
    assert {line["subject"] for line in lines} == {"base", "lora"}
    card = (out / "README.md").read_text()
    assert "**Do not ship.**" in card
    assert "| trees.txt |" in card
    assert "forgetting.png" in card
    assert (out / "forgetting.png").exists()
    assert "Do not ship" in printed
    assert [check["outcome"] for check in results["verdict"]["checks"]] == ["cleared"] * 3 + ["missed"]


def definition(results: dict) -> dict:
    return results["tasks"]["forgetting"]["definition"]


def base_of(adapter: str) -> str:
    return json.loads((Path(adapter) / "adapter_config.json").read_text())["base_model_name_or_path"]


def test_finished_tasks_are_not_done_again(arguments, tmp_path, monkeypatch):
    first, _ = run(arguments(data=[]))
    second, printed = run(arguments())
    assert "Finished before: forgetting" in printed
    assert second["tasks"]["forgetting"] == first["tasks"]["forgetting"]
    monkeypatch.setattr(Lineup, "load", None)  # nothing to load any more
    third, _ = run(arguments(batch_size=3))
    assert third["tasks"] == second["tasks"]


def test_results_of_something_else_are_not_mixed_in(arguments, base_dir, tmp_path):
    run(arguments(data=[]))
    make_lora(base_dir, tmp_path / "lora", seed=1)  # trained anew
    with pytest.raises(ExcitorError, match="subjects differ"):
        run(arguments(data=[]))
    with pytest.raises(ExcitorError, match="options, subjects differ"):
        run(arguments(data=[], retain_documents=3))
    run(arguments(data=[], overwrite=True))


def test_several_adapters_give_what_each_gives_alone(arguments, lora, base_dir, tmp_path):
    other = make_lora(base_dir, tmp_path / "other", seed=1)
    both, _ = run(arguments(adapter=[lora, other], out=str(tmp_path / "both")))
    alone, _ = run(arguments(adapter=[other], out=str(tmp_path / "alone")))
    for task in ("forgetting", "learned"):
        assert both["tasks"][task]["metrics"]["other"] == alone["tasks"][task]["metrics"]["other"]
        assert both["tasks"][task]["metrics"]["other"] != both["tasks"][task]["metrics"]["lora"]


def test_a_merged_adapter_measures_like_the_adapter(arguments, lora, base_dir, tokenizer, tmp_path):
    model = peft.PeftModel.from_pretrained(make_llama(), lora)
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    tokenizer.save_pretrained(tmp_path / "merged")
    results, _ = run(arguments(model=str(tmp_path / "merged")))
    metrics = results["tasks"]["forgetting"]["metrics"]
    for name, metric in metrics["lora"].items():
        assert metrics["merged"][name]["value"] == pytest.approx(metric["value"], abs=1e-4)


def test_a_model_alone_has_losses_and_no_changes(arguments, base_dir):
    results, _ = run(arguments(adapter=[], model=base_dir))
    (name,) = results["subjects"]
    assert results["tasks"]["forgetting"]["metrics"][name].keys() == {"loss"}
    assert results["verdict"] is None


def test_an_adapter_that_does_nothing_ships(arguments, lora):
    weights = Path(lora) / "adapter_model.safetensors"
    save_file({key: tensor * 0 for key, tensor in load_file(weights).items()}, weights)
    results, _ = run(arguments(data=[], max_forgetting=0.0, max_kl=0.0))
    assert results["verdict"]["ship"]


def test_the_card_of_an_adapter_is_updated_on_request(arguments, lora):
    card = Path(lora) / "README.md"
    card.write_text("# Mine\n")
    run(arguments(data=[]))
    assert card.read_text() == "# Mine\n"
    run(arguments(data=[], update_card=True))
    assert card.read_text().startswith("# Mine\n")
    assert "### forgetting" in card.read_text()


def test_broken_weights_are_an_error(arguments, lora):
    weights = Path(lora) / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file({key: torch.full_like(tensor, 1e30) for key, tensor in tensors.items()}, weights)
    with pytest.raises(ExcitorError, match="logits of 'lora' are not finite"):
        run(arguments())
    save_file({key: tensor * math.nan for key, tensor in tensors.items()}, weights)
    with pytest.raises(ExcitorError, match=r"lora: the numbers of .*lora_A.* are not all finite"):
        run(arguments())


def test_bad_input_is_found_before_weights_are_loaded(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(Lineup, "load", None)
    with pytest.raises(ExcitorError, match=r"missing\.txt"):
        run(arguments(retain=[str(tmp_path / "missing.txt")]))
    with pytest.raises(ExcitorError, match=r"missing\.jsonl"):
        run(arguments(data=[str(tmp_path / "missing.jsonl")]))


@pytest.mark.slow
def test_two_processes_give_the_same_table(arguments, lora, files, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    own = tmp_path / "own"
    own.mkdir()
    (own / "rivers.jsonl").write_text("".join(f'{{"text": "River {n}", "end": {n % 2}}}\n' for n in range(7)))
    source = (
        f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {own / 'rivers.jsonl'}}}}}\ntest_split: test\n"
    )
    choice = (
        'output_type: multiple_choice\ndoc_to_text: "{{text}}"\ndoc_to_choice: [" is", " was"]\ndoc_to_target: end\n'
    )
    (own / "rivers.yaml").write_text(f"task: rivers\n{source}{choice}metric_list: [{{metric: acc}}]\n")
    given = {"replies": True, "max_new_tokens": 8, "batch_size": 3, "tasks": ["rivers"], "task_path": str(own)}
    alone = arguments(**given)
    run(alone)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    # "multi_gpu" is torchrun: with accelerate told to use the CPU, two processes that talk through gloo
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", port, "-m"]
    command = shlex.split(replace(alone, out=str(tmp_path / "two")).command)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    subprocess.run([sys.executable, *launch, *command], check=True, env=environment, timeout=250)
    two = json.loads((tmp_path / "two" / "results.json").read_text())
    assert two["tasks"]["forgetting"]["measured"]["environment"]["processes"] == 2
    assert list(two["tasks"]) == ["forgetting", "learned", "instructions", "lm_eval"]
    for task in two["tasks"]:
        items = [(tmp_path / folder / f"{task}.jsonl").read_text() for folder in ("out", "two")]
        if task == "lm_eval":  # makes its batches itself
            items = [[(row["id"], row["metrics"]) for row in map(json.loads, text.splitlines())] for text in items]
        assert items[0] == items[1], task


def test_edited_tasks_are_other_tasks(tmp_path, lora):
    """Also where only a file beside the YAML has changed; the bytecode that Python leaves there is no change."""
    own = tmp_path / "own"
    (own / "__pycache__").mkdir(parents=True)
    (own / "mine.yaml").write_text("task: mine")
    (own / "utils.py").write_text("x = 1")

    def define() -> dict:
        arguments = EvalArguments(adapter=[lora], tasks=["mine"], task_path=str(own))
        return plan(arguments, read_lineup(arguments))[-1].definition

    first = define()
    (own / "__pycache__" / "utils.pyc").write_bytes(b"code")
    assert define() == first
    (own / "utils.py").write_text("x = 2")
    assert define() != first


def test_every_task_gets_the_arguments_it_was_given(tmp_path, base_dir, lora, files):
    given = {"mmlu": "mmlu", "mmlu_topics": ["law"], "scienceqa": "qa", "tasks": ["arc_easy,boolq", "piqa"]}
    arguments = EvalArguments(adapter=[lora], data=[files["rows.jsonl"]], replies=True, batch_size=3, **given)
    tasks = {one.task.name: one for one in plan(arguments, read_lineup(arguments))}
    assert list(tasks) == ["forgetting", "learned", "instructions", "mmlu", "scienceqa", "lm_eval"]
    options = {name: one.definition["options"] for name, one in tasks.items()}
    assert options["mmlu"] == {"source": "mmlu", "split": "test", "shots": 5, "topics": ["law"]}
    assert options["lm_eval"]["tasks"] == ["arc_easy", "boolq", "piqa"]
    assert options["learned"]["template"] == options["scienceqa"]["template"] == "auto"
    assert options["lm_eval"]["template"] is None
    assert plan(replace(arguments, task_chat=True), read_lineup(arguments))[-1].task.template == "auto"
    assert all(one.task.batch_size == 3 for one in tasks.values())
