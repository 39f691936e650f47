"""Decoding: whatever the cache, the batch or the padding, the same tokens as one row computed from scratch."""

import importlib.util

import pytest
import torch
from peft import PeftModel, get_peft_model

from excitor import ExcitorConfig
from tiny import make_llama


NEW_TOKENS = 12
PROMPT = torch.arange(40, 51)[None]
quantised = pytest.mark.skipif(importlib.util.find_spec("optimum") is None, reason="needs optimum-quanto")


EVERYTHING = {"num_local_prompts": 2, "separate_values": True, "null_prompt": True, "temperature": 0.5}


@pytest.fixture(scope="module", params=[{}, EVERYTHING], ids=["paper", "everything"])
def model(request: pytest.FixtureRequest) -> PeftModel:
    config = ExcitorConfig(init_weights=False, task_type="CAUSAL_LM", **request.param)
    return get_peft_model(make_llama(), config).eval()


@pytest.fixture(scope="module")
def uncached(model: PeftModel) -> torch.Tensor:
    """Greedy tokens, each computed from the whole sequence by a plain forward pass."""
    tokens = PROMPT
    with torch.no_grad():
        for _ in range(NEW_TOKENS):
            tokens = torch.cat([tokens, model(tokens).logits[:, -1:].argmax(-1)], dim=1)
    return tokens


def generate(model: PeftModel, tokens: torch.Tensor, **options) -> torch.Tensor:
    return model.generate(
        input_ids=tokens, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False, **options
    )


def test_the_adapter_changes_what_is_generated(model: PeftModel, uncached: torch.Tensor) -> None:
    with model.disable_adapter():
        assert not torch.equal(generate(model, PROMPT), uncached)


@pytest.mark.parametrize(
    "cache",
    [{"use_cache": False}, {"cache_implementation": "dynamic"}, {"cache_implementation": "static"}],
    ids=["none", "dynamic", "static"],
)
def test_cached_is_uncached(model: PeftModel, uncached: torch.Tensor, cache: dict) -> None:
    tokens = generate(model, PROMPT, attention_mask=torch.ones_like(PROMPT), **cache)
    assert torch.equal(tokens, uncached)


@quantised
def test_a_quantised_cache_rounds_as_it_does_for_the_base(model: PeftModel) -> None:
    quanto = {"backend": "quanto", "nbits": 4, "q_group_size": 12}
    options = {"return_dict_in_generate": True, "output_logits": True, "attention_mask": torch.ones_like(PROMPT)}

    def errors() -> list[float]:
        exact = generate(model, PROMPT, use_cache=False, **options).logits
        rounded = generate(model, PROMPT, cache_implementation="quantized", cache_config=quanto, **options).logits
        return [(one - other).abs().max().item() for one, other in zip(exact[:2], rounded[:2], strict=True)]

    with model.disable_adapter():
        base = errors()
    adapted = errors()
    assert base[0] == adapted[0] == 0  # the prompt attends to its own keys, not to those in the cache
    assert 0 < adapted[1] < 3 * base[1]


def test_cached_logits_equal_uncached_ones(model: PeftModel) -> None:
    with torch.no_grad():
        whole = model(PROMPT).logits
        start = model(PROMPT[:, :6], use_cache=True)
        rest = model(PROMPT[:, 6:], past_key_values=start.past_key_values).logits
    torch.testing.assert_close(torch.cat([start.logits, rest], 1), whole, atol=1e-5, rtol=1e-5)


def test_left_padded_batch_gives_the_rows_by_themselves(model: PeftModel) -> None:
    rows = [torch.arange(40, 40 + length) for length in (11, 4, 7, 1)]
    width = max(len(row) for row in rows)
    padded = torch.stack([torch.nn.functional.pad(row, (width - len(row), 0), value=0) for row in rows])
    mask = torch.stack([torch.arange(width) >= width - len(row) for row in rows]).long()
    batch = generate(model, padded, attention_mask=mask)[:, width:]
    for row, tokens in zip(rows, batch, strict=True):
        alone = generate(model, row[None], attention_mask=torch.ones_like(row[None]))
        assert torch.equal(tokens, alone[0, len(row) :])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_implementations_agree(model: PeftModel, attention: str) -> None:
    reference = model(PROMPT).logits
    other = make_llama(attn_implementation=attention)
    adapted = get_peft_model(other, model.peft_config["default"])
    adapted.load_state_dict(model.state_dict())
    torch.testing.assert_close(adapted(PROMPT).logits, reference, atol=1e-5, rtol=1e-5)


def test_beam_search_runs_through_the_cache(model: PeftModel) -> None:
    options = {"num_beams": 3, "attention_mask": torch.ones_like(PROMPT)}
    cached = generate(model, PROMPT, **options)
    assert torch.equal(cached, generate(model, PROMPT, use_cache=False, **options))
