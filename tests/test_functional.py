"""The paper's formula and the key form are the same function, in value and in every gradient."""

from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from excitor.functional import (
    Prompts,
    excited_key,
    excitor_query,
    key_form_attention,
    literal_attention,
    local_prompts,
    prompt_weights,
    reconstructed_key,
    split_heads,
)


@dataclass(frozen=True)
class Shape:
    batch: int
    length: int
    heads: int  # key heads, G
    group: int  # query heads per key head
    head_dim: int
    prompts: int
    rank: int
    local: int  # local prompts
    null: bool


shapes = st.builds(
    Shape,
    batch=st.integers(1, 3),
    length=st.integers(1, 9),
    heads=st.integers(1, 3),
    group=st.integers(1, 3),
    head_dim=st.integers(1, 6).map(lambda half: 2 * half),
    prompts=st.integers(1, 7),
    rank=st.integers(1, 5),
    local=st.integers(0, 3),
    null=st.booleans(),
)


def rotate(x: Tensor) -> Tensor:
    """Rotary embedding of ``(B, heads, N, d)``: linear in x, different at every position."""
    positions = torch.arange(x.shape[-2], dtype=x.dtype)
    frequencies = 100.0 ** (-torch.arange(x.shape[-1] // 2, dtype=x.dtype) / (x.shape[-1] // 2))
    angles = positions[:, None] * frequencies
    first, second = x.chunk(2, -1)
    return torch.cat(
        [first * angles.cos() - second * angles.sin(), first * angles.sin() + second * angles.cos()], dim=-1
    )


def make_mask(shape: Shape, causal: bool, padding: bool) -> Tensor:
    """Additive mask ``(B, 1, N, N)``; each token may always attend to itself, so that no row is empty."""
    n = shape.length
    allowed = torch.ones(shape.batch, 1, n, n, dtype=torch.bool)
    if causal:
        allowed &= torch.ones(n, n, dtype=torch.bool).tril()
    if padding:  # row b is padded by b tokens on the left
        starts = torch.arange(shape.batch).clamp(max=n - 1)
        allowed &= torch.arange(n)[None, None, None, :] >= starts[:, None, None, None]
    allowed |= torch.eye(n, dtype=torch.bool)
    return torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)


def run(form, shape: Shape, seed: int, causal: bool, padding: bool, rotary: bool) -> list[Tensor]:
    """Output and all gradients of one attention layer with Excitor, computed by ``form``."""
    torch.manual_seed(seed)
    width = 5
    kv, q_width = shape.heads * shape.head_dim, shape.heads * shape.group * shape.head_dim
    x = torch.randn(shape.batch, shape.length, width)
    w_q, w_k, w_v = (torch.randn(width, n) / width**0.5 for n in (q_width, kv, kv))
    a, b = torch.randn(width, shape.rank) / width**0.5, torch.randn(shape.rank, kv) / shape.rank**0.5
    prompts, gate = torch.randn(shape.prompts, kv), torch.randn(shape.heads)
    leaves = [x, w_q, w_k, w_v, a, b, prompts, gate]
    local = torch.randn(shape.rank, shape.local * kv) if shape.local else None
    null_bias = torch.randn(shape.heads) if shape.null else None
    leaves += [leaf for leaf in (local, null_bias) if leaf is not None]
    for leaf in leaves:
        leaf.requires_grad_()

    heads = shape.heads
    table = split_heads(prompts, heads)
    groups = [Prompts(table, table)]
    if local is not None:
        own = local_prompts(x @ a, local, heads, shape.head_dim)
        groups.append(Prompts(own, own))
    extra = reconstructed_key(excitor_query(x, a, b, heads), groups, null_bias)
    query = split_heads(x @ w_q, heads * shape.group).transpose(1, 2)
    key, value = (split_heads(x @ w, heads).transpose(1, 2) for w in (w_k, w_v))
    extra = extra.transpose(1, 2)
    if rotary and form is literal_attention:
        query, key, extra = rotate(query), rotate(key), rotate(extra)
    elif rotary:  # as the layers do it: the term goes on the key, then the sum is rotated
        key = rotate(excited_key(key.transpose(1, 2), extra.transpose(1, 2), gate).transpose(1, 2))
        query, extra, gate = rotate(query), torch.zeros_like(extra), torch.zeros_like(gate)
    out = form(query, key, value, extra, gate, make_mask(shape, causal, padding))
    torch.manual_seed(seed + 1)
    return [out, *torch.autograd.grad(out, leaves, torch.randn_like(out))]


@settings(max_examples=60)
@given(shapes, st.integers(0, 2**16), st.booleans(), st.booleans(), st.booleans())
def test_literal_and_key_form_agree(shape: Shape, seed: int, causal: bool, padding: bool, rotary: bool) -> None:
    literal = run(literal_attention, shape, seed, causal, padding, rotary)
    key_form = run(key_form_attention, shape, seed, causal, padding, rotary)
    for left, right in zip(literal, key_form, strict=True):
        # 1e-5 on outputs of size one; gradients are sums over tokens and are compared relative to their own size
        torch.testing.assert_close(left, right, atol=1e-5 * max(1.0, float(left.detach().abs().max())), rtol=0)


@settings(max_examples=30)
@given(shapes, st.integers(0, 2**16))
def test_reconstructed_key_is_a_convex_combination_of_its_own_heads_prompts(shape: Shape, seed: int) -> None:
    torch.manual_seed(seed)
    query = torch.randn(shape.batch, shape.length, shape.heads, shape.head_dim)
    table = torch.randn(shape.prompts, shape.heads, shape.head_dim)
    extra = reconstructed_key(query, [Prompts(table, table)])
    assert extra.shape == query.shape
    assert (extra <= table.amax(0) + 1e-6).all()
    assert (extra >= table.amin(0) - 1e-6).all()


def test_reconstructed_key_of_one_token_ignores_the_others() -> None:
    query, table = torch.randn(2, 7, 3, 4), torch.randn(5, 3, 4)
    whole = reconstructed_key(query, [Prompts(table, table)])
    torch.testing.assert_close(reconstructed_key(query[:, 3:4], [Prompts(table, table)]), whole[:, 3:4])


def test_zero_gate_is_the_identity_bit_for_bit() -> None:
    key, extra = torch.randn(2, 7, 3, 4), torch.randn(2, 7, 3, 4)
    assert torch.equal(excited_key(key, extra, torch.zeros(3)), key)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_the_exact_result(dtype: torch.dtype) -> None:
    query, table = torch.randn(2, 7, 3, 8), torch.randn(30, 3, 8)
    exact = reconstructed_key(query.double(), [Prompts(table.double(), table.double())])
    half = reconstructed_key(query.to(dtype), [Prompts(table.to(dtype), table.to(dtype))])
    assert half.dtype == dtype
    torch.testing.assert_close(half.double(), exact, atol=8 * torch.finfo(dtype).eps, rtol=0)


def test_excited_key_keeps_the_keys_dtype() -> None:
    key = torch.randn(2, 3, 4).bfloat16()
    assert excited_key(key, torch.randn(2, 3, 4), torch.ones(3)).dtype == torch.bfloat16


def test_reconstructed_key_written_out_for_one_token_and_head() -> None:
    """All kinds of prompts at once: global, of the row, the token's own, and the null prompt, at a temperature."""
    query, bias, temperature = torch.randn(4), torch.randn(1), 1.7
    keys, values = torch.randn(5, 4), torch.randn(5, 4)
    similarities = torch.stack([torch.dot(query, key) / 4**0.5 / temperature for key in keys])
    total = similarities.exp().sum() + bias.exp()
    expected = sum(weight * value for weight, value in zip(similarities.exp(), values, strict=True)) / total
    groups = [
        Prompts(keys[:2].view(2, 1, 4), values[:2].view(2, 1, 4)),
        Prompts(keys[2:3].view(1, 1, 1, 1, 4), values[2:3].view(1, 1, 1, 1, 4)),
        Prompts(keys[3:].view(1, 1, 2, 1, 4), values[3:].view(1, 1, 2, 1, 4)),
    ]
    result = reconstructed_key(query.view(1, 1, 1, 4), groups, bias, temperature)
    torch.testing.assert_close(result.view(4), expected)
    weights = prompt_weights(query.view(1, 1, 1, 4), groups, bias, temperature)
    torch.testing.assert_close(weights.flatten(), torch.cat([similarities, bias]).softmax(0))


def test_prompts_of_a_row_reach_that_row_alone() -> None:
    query, keys = torch.randn(2, 7, 3, 4), torch.randn(2, 1, 5, 3, 4)
    both = reconstructed_key(query, [Prompts(keys, keys)])
    for row in range(2):
        alone = reconstructed_key(query[row], [Prompts(keys[row, 0], keys[row, 0])])
        torch.testing.assert_close(both[row], alone)


def test_local_prompts_are_linear_in_the_tokens_own_features() -> None:
    features, weight = torch.randn(2, 7, 3), torch.randn(3, 2 * 3 * 4)
    made = local_prompts(features, weight, num_heads=3, head_dim=4)
    assert made.shape == (2, 7, 2, 3, 4)
    torch.testing.assert_close(made[1, 4, 1, 2], features[1, 4] @ weight[:, 20:24])


def test_a_null_prompt_of_great_weight_leaves_the_key_alone() -> None:
    query, table = torch.randn(2, 7, 3, 4), torch.randn(5, 3, 4)
    extra = reconstructed_key(query, [Prompts(table, table)], null_bias=torch.full((3,), 200.0))
    assert torch.equal(extra, torch.zeros_like(extra))
