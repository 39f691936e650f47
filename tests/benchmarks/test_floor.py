"""The arithmetic of docs/performance.md is what the layers do, and the page has what the script makes."""

import runpy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from excitor import ExcitorConfig, ExcitorLayer
from excitor.fold_cache import FoldCache


ROOT = Path(__file__).parents[2]
FLOOR = runpy.run_path(str(ROOT / "benchmarks" / "floor.py"))
SMALL = FLOOR["Layer"](width=96, heads=6, key_heads=3, head_dim=16, hidden=80)
TOKENS = 1000


def counted(run) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.fixture
def layer() -> ExcitorLayer:
    layer = ExcitorLayer(nn.Linear(96, 48, bias=False), head_dim=16)
    layer.update_layer("default", ExcitorConfig(init_weights=False))
    return layer


def test_operations_of_the_term(layer: ExcitorLayer) -> None:
    generator, processor = layer.parts("default")
    x = torch.randn(TOKENS, 96)
    layer.eval().requires_grad_(False)
    layer.term("default", x)  # folds
    assert counted(lambda: layer.term("default", x)) == SMALL.term(folded=True, tokens=TOKENS)
    assert counted(lambda: processor.term(x, generator)) == SMALL.term(folded=False, tokens=TOKENS)
    layer.requires_grad_(True)
    x.requires_grad_()
    term, fold = layer.term("default", x), counted(lambda: processor.fold(generator))
    backward = counted(lambda: term.backward(torch.ones_like(term)))
    assert backward == TOKENS * SMALL.term_backward() + 2 * fold


def test_numbers_that_are_read_and_trained(layer: ExcitorLayer) -> None:
    generator, processor = layer.parts("default")
    folded = FoldCache().folded("default", generator, processor)
    assert processor.A.numel() + folded.scores.numel() + folded.values.numel() == SMALL.folded_numbers
    assert sum(p.numel() for name, p in layer.named_parameters() if "excitor_" in name) == SMALL.trainable


def test_weights_of_a_layer() -> None:
    config = LlamaConfig(
        hidden_size=96, num_attention_heads=6, num_key_value_heads=3, head_dim=16, intermediate_size=80
    )
    assert sum(p.numel() for p in LlamaDecoderLayer(config, 0).parameters() if p.dim() == 2) == SMALL.weights


def test_the_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "performance.md").read_text()
    assert FLOOR["BEGIN"] + FLOOR["tables"]() + FLOOR["END"] in page, "run python benchmarks/floor.py"
