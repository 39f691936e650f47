import pytest
import torch
from transformers import AutoConfig

from excitor.compare.budget import TOLERANCE, count, match
from excitor.compare.experiments import CATALOGUE, Experiment, read_experiments
from excitor.compare.flops import LENGTH, flops, row_length
from excitor.errors import ExcitorError
from excitor.mini import BASE_DIR


CONFIG = AutoConfig.from_pretrained(BASE_DIR)
KNOWN = {name: one.resolve(CONFIG) for name, one in read_experiments(CATALOGUE).items()}
TARGET = flops(KNOWN["excitor/default"], CONFIG)


def test_the_count_is_that_of_the_products() -> None:
    """Of a low-rank pair on every query: two operations forward, four backward, less what needs no gradient."""
    ranks = [
        flops(Experiment("lora", {"peft_type": "LORA", "r": r, "target_modules": ["q_proj"]}), CONFIG) for r in (4, 8)
    ]
    width, layers = CONFIG.hidden_size, CONFIG.num_hidden_layers
    pair = 4 * 2 * width  # numbers in what four more ranks add to A and B of a layer
    first = 2 * 4 * width  # nothing needs the gradient of the embeddings
    assert ranks[1] - ranks[0] == layers * 6 * pair - first


def test_what_trains_more_costs_more_and_the_base_costs_nothing() -> None:
    assert flops(KNOWN["base/untouched"], CONFIG) == 0
    assert flops(KNOWN["ia3/default"], CONFIG) < TARGET < flops(KNOWN["full/layers"], CONFIG)


def test_tokens_in_front_are_paid_for() -> None:
    per_row = [flops(KNOWN["prompt-tuning/default"], CONFIG, length) for length in (32, 128)]
    assert per_row[0] > 1.3 * per_row[1]


def test_sizes_are_solved_for_operations() -> None:
    lora = KNOWN["lora/q-v"]
    matched = match(lora, CONFIG, TARGET, flops)
    assert matched.matched
    assert abs(flops(matched, CONFIG) - TARGET) <= TOLERANCE * TARGET
    assert count(matched, CONFIG) > count(lora, CONFIG)


def test_what_cannot_be_as_cheap_says_so_and_takes_its_smallest() -> None:
    matched = match(KNOWN["oft/q-v"], CONFIG, 10**6, flops)
    assert matched.matched is False
    assert matched.adapter["oft_block_size"] == 2


@pytest.mark.parametrize("name", ["ia3/default", "shira/q-v", "base/untouched"])
def test_what_has_no_size_that_counts_stays_as_it_is(name: str) -> None:
    assert match(KNOWN[name], CONFIG, TARGET, flops) == KNOWN[name]


def test_rows_are_no_longer_than_those_of_the_suite() -> None:
    assert row_length(CONFIG, None) == LENGTH
    assert row_length(CONFIG, 48) == 48


def test_a_method_that_does_not_fit_is_named() -> None:
    odd = Experiment("odd/one", {"peft_type": "LORA", "target_modules": ["nowhere"]})
    with pytest.raises(ExcitorError, match="The odd/one of this comparison does not fit the base"):
        flops(odd, CONFIG)
    assert not torch.is_inference_mode_enabled()
