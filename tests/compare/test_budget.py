import pytest
from transformers import AutoConfig

from excitor.compare.budget import KNOBS, TOLERANCE, count, match
from excitor.compare.experiments import CATALOGUE, Experiment, read_experiments
from excitor.errors import ExcitorError
from excitor.mini import BASE_DIR


CONFIG = AutoConfig.from_pretrained(BASE_DIR)
TARGET = 42_264  # the default's
KNOWN = {name: one.resolve(CONFIG) for name, one in read_experiments(CATALOGUE).items()}
SIZED = [name for name, one in KNOWN.items() if one.adapter and one.adapter["peft_type"] in KNOBS]


@pytest.mark.parametrize("name", [name for name in SIZED if name not in ("oft/q-v", "prompt-tuning/default")])
def test_the_size_is_solved_for_the_budget(name):
    matched = match(KNOWN[name], CONFIG, TARGET)
    assert matched.matched
    assert abs(count(matched, CONFIG) - TARGET) <= TOLERANCE * TARGET


def test_scales_stay_when_ranks_change():
    adapter = match(KNOWN["lora/q-v"], CONFIG, TARGET).adapter
    assert adapter["lora_alpha"] / adapter["r"] == 2.0
    for layers, rank in adapter.get("rank_pattern", {}).items():
        assert adapter["alpha_pattern"][layers] / rank == pytest.approx(2.0)


def test_what_cannot_come_near_says_so():
    prompt = match(KNOWN["prompt-tuning/default"], CONFIG, TARGET)
    assert prompt.matched is False
    assert prompt.adapter["num_virtual_tokens"] == KNOBS["PROMPT_TUNING"]["most"]


def test_what_has_no_size_stays_as_it_is():
    for name in ("ia3/default", "ln-tuning/default", "base/untouched"):
        assert match(KNOWN[name], CONFIG, TARGET) == KNOWN[name]


def test_a_method_that_does_not_fit_is_named():
    odd = Experiment("odd/one", {"peft_type": "LORA", "target_modules": ["nowhere"]})
    with pytest.raises(ExcitorError, match=r"The odd/one of this comparison does not fit the base.*\(--methods\)"):
        count(odd, CONFIG)
    with pytest.raises(ExcitorError, match="The odd/two of this comparison: PEFT knows no method 'ROLA'"):
        count(Experiment("odd/two", {"peft_type": "ROLA"}), CONFIG)
