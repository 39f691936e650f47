"""Training with preservation losses, through the whole run."""

import json
from dataclasses import replace

import pytest
import torch

from excitor.errors import ExcitorError
from excitor.preservation.replay import ReplayText
from excitor.preservation.weights import Weights
from excitor.train.arguments import TrainArguments
from excitor.train.callbacks import MetricsLog
from excitor.train.prepare import prepare
from excitor.train.preserve import make_preservation
from excitor.train.run import train
from excitor.train.trainer import make_trainer

from .conftest import metrics_of


ALL = {"keep": "strong", "key_drift_weight": 0.1, "hidden_drift_weight": 0.1, "gate_weight": 0.01}
NAMES = {"kl", "prompt_kl", "key_drift", "hidden_drift", "gate"}


@pytest.fixture
def replayed(arguments, tmp_path):
    """Arguments of a run with replay text of its own."""
    path = tmp_path / "replay.txt"
    path.write_text("\n\n".join(f"The {word} is in the {word} house." for word in ["red", "green", "blue"]) * 5)

    def make(**changes) -> TrainArguments:
        return arguments(**({"replay": [str(path)], "replay_length": 40, "gate_init_std": 0.1} | changes))

    return make


@pytest.fixture
def lora(tmp_path) -> dict:
    path = tmp_path / "lora.json"
    path.write_text(json.dumps({"peft_type": "LORA", "r": 4, "target_modules": ["q_proj", "v_proj"]}))
    options = dict.fromkeys(("num_prompts", "r", "gate_init_std"))
    return options | {"adapter_config": str(path)}


def test_everything_on_is_logged_drawn_and_said(replayed, console, tmp_path):
    report = train(replayed(max_forgetting=100.0, **ALL), console)
    records = metrics_of(tmp_path / "out")
    assert all(record["parts"].keys() == NAMES | {"kl_weight"} for record in records)
    found = report["preservation"]
    assert found["weights"] == {"kl": 1, "prompt_kl": 0.1, "key_drift": 0.1, "hidden_drift": 0.1, "gate": 0.01}
    assert 0 < found["share"] < 1
    assert found["tokens_per_second"]["with"] < found["tokens_per_second"]["without"]
    assert found["reached"]
    assert found["forgetting"] == report["forgotten"]["change"]
    assert found["kl_weight"] == records[-1]["parts"]["kl_weight"] < 1
    printed, card = console.export_text(), (tmp_path / "out" / "README.md").read_text()
    assert "Preservation: weights kl 1, prompt_kl 0.1" in printed
    assert "replay.txt; the weight of kl adapts to end below 100 nats" in printed
    for text in (printed, card):
        assert "tokens/s in place of" in text
        assert "Forgetting stayed within what was accepted" in text


def test_a_bar_that_was_missed_is_said_plainly(replayed, console, tmp_path):
    report = train(replayed(max_forgetting=1e-9, kl_weight=1e-6, seed=1), console)
    assert not report["preservation"]["reached"]
    assert "MISSED: more was forgotten than accepted" in console.export_text()
    assert "MISSED" in (tmp_path / "out" / "README.md").read_text()


def test_off_leaves_no_trace(arguments, console, tmp_path):
    report = train(arguments(keep="off", kl_weight=0.0), console)
    assert "preservation" not in report
    assert not any("parts" in record for record in metrics_of(tmp_path / "out"))
    assert not (tmp_path / "out" / "replay_text.json").exists()
    assert "reservation" not in console.export_text()


def test_the_losses_do_not_change_which_instructions_are_seen(arguments, replayed, console, tmp_path):
    train(arguments(gate_init_std=0.1, out=str(tmp_path / "off")), console)
    train(replayed(kl_weight=1e-30, out=str(tmp_path / "on")), console)
    off, on = metrics_of(tmp_path / "off"), metrics_of(tmp_path / "on")
    assert [record["loss"] for record in on] == [record["loss"] for record in off]


def test_a_resumed_run_is_the_uninterrupted_one(arguments, console, tmp_path, monkeypatch):
    """With text that the base wrote, losses in every other step, accumulation and the controller."""
    changes = {
        "keep": "light",
        "max_forgetting": 0.001,
        "replay_documents": 6,
        "replay_length": 20,
        "replay_every": 2,
        "gate_init_std": 0.1,
        "gradient_accumulation": 2,
        "batch_size": 2,
    }
    train(arguments(out=str(tmp_path / "whole"), **changes), console)
    original = MetricsLog.on_log

    def on_log(self, args, state, control, **kwargs):
        original(self, args, state, control, **kwargs)
        if state.global_step == 5:
            raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "on_log", on_log)
        with pytest.raises(RuntimeError):
            train(arguments(**changes), console)
    monkeypatch.setattr("excitor.train.preserve.sample_replay", None)  # the text is there already
    train(arguments(resume=True, **changes), console)
    whole, resumed = metrics_of(tmp_path / "whole"), metrics_of(tmp_path / "out")
    assert resumed == whole
    assert len({record["parts"]["kl_weight"] for record in whole}) > 2
    assert ["kl" in record["parts"] for record in whole] == [True, False] * 3
    adapters = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "out")]
    assert adapters[0] == adapters[1]


def test_replay_text_is_not_the_text_that_is_measured_on(arguments, console, tmp_path):
    train(
        arguments(
            keep="light", retain=[], retain_documents=6, replay_documents=6, max_length=64, steps=1, save_steps=1
        ),
        console,
    )
    replay = ReplayText.from_json((tmp_path / "out" / "replay_text.json").read_text())
    measured = json.loads((tmp_path / "out" / "base_text.json").read_text())
    assert not {tuple(text) for text in replay.documents} & {tuple(text) for text in measured}


@pytest.mark.parametrize("change", [{"packing": True}, {"packing": False, "gradient_accumulation": 2}])
def test_bf16_packing_and_checkpointing(replayed, console, tmp_path, change):
    """A loss or a gradient that is no number would end the run."""
    train(replayed(precision="bf16", gradient_checkpointing=True, **(ALL | change)), console)
    records = metrics_of(tmp_path / "out")
    assert all(record["parts"].keys() == NAMES for record in records)
    drifts = [record["parts"]["key_drift"] for record in records]
    assert drifts[0] == 0  # an identity start is exact in bf16 as well
    assert drifts[-1] > 0
    assert records[-1]["parts"]["kl"] > 0


def test_lora_is_held_too(replayed, lora, console, tmp_path):
    common = {"steps": 20, "save_steps": 20, "batch_size": 8, **lora}
    free = train(replayed(replay=[], replay_length=None, out=str(tmp_path / "free"), **common), console)
    held = train(replayed(kl_weight=3.0, out=str(tmp_path / "held"), **common), console)
    assert held["forgotten"]["kl"] < 0.7 * free["forgotten"]["kl"]
    assert held["learned"]["change"] < 0
    assert "A LORA adapter" in (tmp_path / "held" / "README.md").read_text()


def test_the_controller_ends_below_a_bar_that_is_missed_without_it(arguments, console, tmp_path):
    common = {"retain": [], "retain_documents": 40, "max_length": 64, "gate_init_std": 0.1, "steps": 90}
    common |= {"save_steps": 90, "learning_rate": 0.02}
    free = train(arguments(out=str(tmp_path / "free"), **common), console)
    bar = 0.5 * free["forgotten"]["change"]
    controlled = {"max_forgetting": bar, "replay_documents": 45, "replay_length": 48}
    held = train(arguments(**controlled, out=str(tmp_path / "held"), **common), console)
    assert held["forgotten"]["change"] < bar < free["forgotten"]["change"]
    assert held["learned"]["change"] < 0


def test_accumulated_passes_count_as_their_mean(replayed):
    """The gates' size is the same in every pass: its gradient must not depend on how many there are."""
    gradients = []
    for passes in (1, 2):
        job = prepare(replayed(replay=[], replay_length=None, gate_weight=1.0, gradient_accumulation=passes))
        trainer = make_trainer(job, [])
        trainer.preservation = make_preservation(job, trainer.model, cache=None)
        trainer.current_gradient_accumulation_steps = passes
        rows = list(trainer.get_train_dataloader())[:passes]
        trainer.compute_loss = lambda *args, **kwargs: torch.zeros((), requires_grad=True)
        for row in rows:
            trainer.training_step(trainer.model, row)
        gradients.append(
            [p.grad for name, p in trainer.model.named_parameters() if "excitor" in name and "gate" in name]
        )
    for one, two in zip(*gradients, strict=True):
        assert one.abs().sum() > 0
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep": "hard"}, "--keep must be one of off, light, strong, got 'hard'"),
        ({"kl_weight": -1.0}, "--kl-weight must be at least 0, got -1.0"),
        ({"hidden_drift_weight": float("nan")}, "--hidden-drift-weight must be at least 0, got nan"),
        ({"max_forgetting": 0.0}, "--max-forgetting must be greater than 0, got 0.0"),
        ({"max_forgetting": 0.1, "kl_weight": 0.0}, "cannot start at --kl-weight 0"),
        ({"keep": "light", "replay_every": 0}, "--replay-every must be at least 1, got 0"),
        ({"replay": ["a.txt"], "replay_every": 2}, "--replay, --replay-every would do nothing: no loss uses replay"),
        ({"replay_documents": 5, "gate_weight": 1.0}, "--replay-documents would do nothing"),
        ({"keep": "light", "kl_weight": 0.0, "replay": ["a"]}, "--replay would do nothing"),
        ({"keep": "light", "replay": ["./a.txt@2"], "retain": ["a.txt#5"]}, "--retain a.txt#5 is replayed too"),
        ({"keep": "light", "replay": ["a.txt@x"]}, "after '@' there must be a weight above 0, got 'x'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ExcitorError, match=message):
        TrainArguments(model="m", data=["d"], out="o", **change).check()


def test_weights_given_win_over_the_level():
    def weights(**changes):
        return TrainArguments(**changes).weights()

    assert weights() == Weights()
    assert weights(keep="strong", kl_weight=2.0) == replace(weights(keep="strong"), kl=2.0)
    assert weights(keep="strong", prompt_kl_weight=0.0).prompt_kl == 0
    assert weights(max_forgetting=0.1).kl == 1
    assert weights(max_forgetting=0.1, keep="light") == weights(keep="light")


def test_what_does_not_fit_the_method_or_the_data_is_refused_before_weights_are_loaded(replayed, lora, tmp_path):
    with pytest.raises(ExcitorError, match=r"--key-drift-weight, --gate-weight: only Excitor has such a loss"):
        prepare(replayed(key_drift_weight=1.0, gate_weight=1.0, **lora))
    with pytest.raises(ExcitorError, match="--gate-weight needs gates, and --gate is none"):
        prepare(replayed(kl_weight=1.0, gate_weight=1.0, gate="none"))
    with pytest.raises(ExcitorError, match="--replay-length 65 is more than --max-length 64"):
        prepare(replayed(kl_weight=1.0, replay_length=65, max_length=64))
    with pytest.raises(ExcitorError, match=r"there is no file .*none.txt"):
        prepare(replayed(kl_weight=1.0, replay=[str(tmp_path / "none.txt")]))
