"""The folded term of tokens that see pictures, in Triton: the prompts of all tokens first, then those of a row's own.

A row may look at thousands of features, so its visual prompts pass by in tiles of V, with a softmax that is carried on
from tile to tile (as in FlashAttention, arXiv 2205.14135) and starts with the learnable prompts and the null prompt.
Only the logarithm of its total is kept for the backward pass, ``lse``; infinity stands for tokens without any prompt.

Sizes are named as in :mod:`.term`, whose tiles of learnable prompts these are; ``length`` is the number of tokens in a
row, ``count`` that of its visual prompts. Everything is fp32.
"""

# What Triton's stubs say of tensors is not what its language does with them.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

import triton
import triton.language as tl

from .term import _factors, _features, _per_prompt, _scores, _values


@triton.jit
def forward_kernel(
    out_ptr,  # (N, G * d): the term
    lse_ptr,  # (N, G)
    z_ptr,  # (N, r)
    scores_ptr,  # (r, G * rows)
    values_ptr,  # (G, rows, d)
    null_ptr,  # (G,), read with NULL
    seen_scores_ptr,  # (B, r, G * count)
    seen_values_ptr,  # (B, G, count, d)
    seen_mask_ptr,  # (B, count), bytes, read with MASK
    length,
    count,
    HEADS: tl.constexpr,
    PROMPTS: tl.constexpr,
    LOCAL: tl.constexpr,
    RANK: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    NULL: tl.constexpr,
    MASK: tl.constexpr,
    T: tl.constexpr,
    R: tl.constexpr,
    J: tl.constexpr,
    D: tl.constexpr,
    V: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program per block of tokens of one row and head; heads of the same tokens lie side by side."""
    head = tl.program_id(0) % HEADS
    row, tokens, here = _block(tl.program_id(0) // HEADS, length, T)
    features = tl.arange(0, D)
    z = _features(z_ptr, tokens, here, RANK, R)
    highest = tl.full((T,), float("-inf"), tl.float32)
    total = tl.zeros((T,), tl.float32)
    term = tl.zeros((T, D), tl.float32)
    if PROMPTS + LOCAL > 0:
        rows = tl.arange(0, J)
        own, _, factors = _own_scores(
            z, z_ptr, scores_ptr, tokens, here, head, HEADS, PROMPTS, LOCAL, RANK, R, J, PRECISION
        )
        highest = tl.max(own, 1)
        weights = tl.exp(own - highest[:, None])
        first = (rows < PROMPTS) | ((rows - PROMPTS) % RANK == 0)  # all rows of a local prompt carry its weight
        total = tl.sum(tl.where(first[None, :], weights, 0.0), 1)
        values = _values(values_ptr, head, PROMPTS, LOCAL, RANK, HEAD_DIM, J, D)
        term = tl.dot(weights * factors, values, input_precision=PRECISION)
    if NULL:
        null = tl.load(null_ptr + head)
        before, highest = highest, tl.maximum(highest, null)
        shrunk = tl.exp(before - highest)
        total = total * shrunk + tl.exp(null - highest)
        term = term * shrunk[:, None]
    start = tl.full((), 0, tl.int32)
    while start < count:  # not a range: its bounds upset Triton's interpreter under newer NumPy
        seen, there = _tile(start, count, V)
        scores = _seen_scores(
            z, seen_scores_ptr, seen_mask_ptr, row, head, seen, there, count, HEADS, RANK, MASK, R, PRECISION
        )
        values = _seen_values(seen_values_ptr, row, head, seen, there, count, HEADS, HEAD_DIM, D)
        before, highest = highest, tl.maximum(highest, tl.max(scores, 1))
        level = tl.where(highest == float("-inf"), 0.0, highest)  # of tokens for which nothing has been there yet
        shrunk = tl.exp(before - level)
        weights = tl.exp(scores - level[:, None])
        total = total * shrunk + tl.sum(weights, 1)
        term = term * shrunk[:, None] + tl.dot(weights, values, input_precision=PRECISION)
        start += V
    some = total > 0
    term = term / tl.where(some, total, 1.0)[:, None]
    at = tokens[:, None] * (HEADS * HEAD_DIM) + head * HEAD_DIM + features[None, :]
    tl.store(out_ptr + at, term, mask=here[:, None] & (features < HEAD_DIM)[None, :])
    lse = tl.where(some, highest + tl.log(tl.where(some, total, 1.0)), float("inf"))
    tl.store(lse_ptr + tokens * HEADS + head, lse, mask=here)


@triton.jit
def token_backward_kernel(
    grad_ptr,  # (N, G * d)
    lse_ptr,  # (N, G)
    mean_ptr,  # (N, G): the product of the gradient and the term
    z_ptr,  # (N, r)
    scores_ptr,  # (r, G * rows)
    values_ptr,  # (G, rows, d)
    null_ptr,  # (G,), read with NULL
    seen_scores_ptr,  # (B, r, G * count)
    seen_values_ptr,  # (B, G, count, d)
    seen_mask_ptr,  # (B, count), bytes, read with MASK
    z_grad_ptr,  # (G, N, r): the share of each head
    scores_grad_ptr,  # (chunks, r, G * rows): the share of each chunk, as in .term
    values_grad_ptr,  # (chunks, G, rows, d)
    null_grad_ptr,  # (chunks, G), written with NULL
    num_tokens,
    length,
    count,
    num_blocks,
    num_chunks,
    HEADS: tl.constexpr,
    PROMPTS: tl.constexpr,
    LOCAL: tl.constexpr,
    RANK: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    NULL: tl.constexpr,
    MASK: tl.constexpr,
    T: tl.constexpr,
    R: tl.constexpr,
    J: tl.constexpr,
    D: tl.constexpr,
    V: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of z and of the learnable prompts: one program per chunk of blocks of tokens and head."""
    head = tl.program_id(0) % HEADS
    chunk = tl.program_id(0) // HEADS
    ROWS: tl.constexpr = PROMPTS + LOCAL * RANK
    ranks, rows, features = tl.arange(0, R), tl.arange(0, J), tl.arange(0, D)
    # Which feature of z a row of a local prompt is multiplied by.
    feature_of_row = ((rows >= PROMPTS) & (rows < ROWS))[:, None] & (
        ((rows - PROMPTS) % RANK)[:, None] == ranks[None, :]
    )
    scores_grad = tl.zeros((J, R), tl.float32)
    values_grad = tl.zeros((J, D), tl.float32)
    null_grad = tl.zeros((T,), tl.float32)
    block = chunk
    while block < num_blocks:
        row, tokens, here = _block(block, length, T)
        z = _features(z_ptr, tokens, here, RANK, R)
        grad, lse, mean = _given(grad_ptr, lse_ptr, mean_ptr, tokens, here, head, HEADS, HEAD_DIM, D)
        z_grad = tl.zeros((T, R), tl.float32)
        if PROMPTS + LOCAL > 0:
            own, products, factors = _own_scores(
                z, z_ptr, scores_ptr, tokens, here, head, HEADS, PROMPTS, LOCAL, RANK, R, J, PRECISION
            )
            weights = tl.exp(own - lse[:, None])
            values = _values(values_ptr, head, PROMPTS, LOCAL, RANK, HEAD_DIM, J, D)
            values_grad += tl.dot(tl.trans(weights * factors), grad, input_precision=PRECISION)
            row_grad = tl.dot(grad, tl.trans(values), input_precision=PRECISION)
            prompt_grad = weights * (_per_prompt(row_grad * factors, PROMPTS, LOCAL, RANK, J) - mean[:, None])
            product_grad = prompt_grad * factors
            scores_grad += tl.dot(tl.trans(product_grad), z, input_precision=PRECISION)
            scores = _scores(scores_ptr, head, HEADS, PROMPTS, LOCAL, RANK, R, J)
            z_grad += tl.dot(product_grad, tl.trans(scores), input_precision=PRECISION)
            if LOCAL > 0:  # z is a factor of scores and of values, too
                factor_grad = weights * row_grad + prompt_grad * products
                z_grad += tl.dot(factor_grad, feature_of_row.to(tl.float32), input_precision=PRECISION)
        if NULL:  # its value is zero, and so is the gradient of its weight
            null_grad -= tl.exp(tl.load(null_ptr + head) - lse) * mean
        start = tl.full((), 0, tl.int32)
        while start < count:
            seen, there = _tile(start, count, V)
            scores = _seen_scores(
                z, seen_scores_ptr, seen_mask_ptr, row, head, seen, there, count, HEADS, RANK, MASK, R, PRECISION
            )
            values = _seen_values(seen_values_ptr, row, head, seen, there, count, HEADS, HEAD_DIM, D)
            weight_grad = tl.dot(grad, tl.trans(values), input_precision=PRECISION)
            score_grad = tl.exp(scores - lse[:, None]) * (weight_grad - mean[:, None])
            maps = _seen_maps(seen_scores_ptr, row, head, seen, there, count, HEADS, RANK, R)
            z_grad += tl.dot(score_grad, tl.trans(maps), input_precision=PRECISION)
            start += V
        at = (head.to(tl.int64) * num_tokens + tokens[:, None]) * RANK + ranks[None, :]
        tl.store(z_grad_ptr + at, z_grad, mask=here[:, None] & (ranks < RANK)[None, :])
        block += num_chunks

    if PROMPTS + LOCAL > 0:
        at = (chunk * RANK + ranks[None, :]) * (HEADS * ROWS) + head * ROWS + rows[:, None]
        tl.store(scores_grad_ptr + at, scores_grad, mask=(rows < ROWS)[:, None] & (ranks < RANK)[None, :])
        at = ((chunk * HEADS + head) * ROWS + rows[:, None]) * HEAD_DIM + features[None, :]
        tl.store(values_grad_ptr + at, values_grad, mask=(rows < ROWS)[:, None] & (features < HEAD_DIM)[None, :])
    if NULL:
        tl.store(null_grad_ptr + chunk * HEADS + head, tl.sum(null_grad, 0))


@triton.jit
def picture_backward_kernel(
    grad_ptr,  # (N, G * d)
    lse_ptr,  # (N, G)
    mean_ptr,  # (N, G)
    z_ptr,  # (N, r)
    seen_scores_ptr,  # (B, r, G * count)
    seen_values_ptr,  # (B, G, count, d)
    seen_mask_ptr,  # (B, count), bytes, read with MASK
    seen_scores_grad_ptr,  # (B, r, G * count)
    seen_values_grad_ptr,  # (B, G, count, d)
    length,
    count,
    HEADS: tl.constexpr,
    RANK: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    MASK: tl.constexpr,
    T: tl.constexpr,
    R: tl.constexpr,
    D: tl.constexpr,
    V: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of the visual prompts: one program per tile of those of a row and head, over all tokens of the row."""
    head = tl.program_id(0) % HEADS
    tiles = tl.cdiv(count, V)
    row = (tl.program_id(0) // HEADS // tiles).to(tl.int64)
    seen, there = _tile(tl.program_id(0) // HEADS % tiles * V, count, V)
    ranks, features = tl.arange(0, R), tl.arange(0, D)
    values = _seen_values(seen_values_ptr, row, head, seen, there, count, HEADS, HEAD_DIM, D)
    scores_grad = tl.zeros((R, V), tl.float32)
    values_grad = tl.zeros((V, D), tl.float32)
    start = tl.full((), 0, tl.int32)
    while start < length:
        within = start + tl.arange(0, T)
        here, tokens = within < length, row * length + within
        z = _features(z_ptr, tokens, here, RANK, R)
        grad, lse, mean = _given(grad_ptr, lse_ptr, mean_ptr, tokens, here, head, HEADS, HEAD_DIM, D)
        scores = _seen_scores(
            z, seen_scores_ptr, seen_mask_ptr, row, head, seen, there, count, HEADS, RANK, MASK, R, PRECISION
        )
        weights = tl.exp(scores - lse[:, None])
        values_grad += tl.dot(tl.trans(weights), grad, input_precision=PRECISION)
        weight_grad = tl.dot(grad, tl.trans(values), input_precision=PRECISION)
        score_grad = weights * (weight_grad - mean[:, None])
        scores_grad += tl.dot(tl.trans(z), score_grad, input_precision=PRECISION)
        start += T
    at = (row * RANK + ranks[:, None]) * (HEADS * count) + head * count + seen[None, :]
    tl.store(seen_scores_grad_ptr + at, scores_grad, mask=(ranks < RANK)[:, None] & there[None, :])
    at = ((row * HEADS + head) * count + seen[:, None]) * HEAD_DIM + features[None, :]
    tl.store(seen_values_grad_ptr + at, values_grad, mask=there[:, None] & (features < HEAD_DIM)[None, :])


@triton.jit
def _block(block, length, T: tl.constexpr):
    """The row of a block of tokens, these tokens, and which of them are the row's: no block spans two rows."""
    blocks = tl.cdiv(length, T)
    row = (block // blocks).to(tl.int64)
    within = block % blocks * T + tl.arange(0, T)
    return row, row * length + within, within < length


@triton.jit
def _tile(start, count, V: tl.constexpr):
    """The visual prompts of a tile, and which of them there are."""
    seen = start + tl.arange(0, V)
    return seen, seen < count


@triton.jit
def _given(
    grad_ptr, lse_ptr, mean_ptr, tokens, here, head, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, D: tl.constexpr
):
    """The gradient of a block, (T, D), and two numbers of each token, (T,); weights behind the last token are 0."""
    features = tl.arange(0, D)
    at = tokens[:, None] * (HEADS * HEAD_DIM) + head * HEAD_DIM + features[None, :]
    grad = tl.load(grad_ptr + at, mask=here[:, None] & (features < HEAD_DIM)[None, :], other=0.0)
    lse = tl.load(lse_ptr + tokens * HEADS + head, mask=here, other=float("inf"))
    return grad, lse, tl.load(mean_ptr + tokens * HEADS + head, mask=here, other=0.0)


@triton.jit
def _own_scores(
    z,
    z_ptr,
    scores_ptr,
    tokens,
    here,
    head,
    HEADS: tl.constexpr,
    PROMPTS: tl.constexpr,
    LOCAL: tl.constexpr,
    RANK: tl.constexpr,
    R: tl.constexpr,
    J: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Scores over the learnable prompts in all of their rows, what they are made of, and the factors, each (T, J)."""
    rows = tl.arange(0, J)
    factors = _factors(z_ptr, tokens, here, PROMPTS, LOCAL, RANK, J)
    scores = _scores(scores_ptr, head, HEADS, PROMPTS, LOCAL, RANK, R, J)
    products = tl.dot(z, scores, input_precision=PRECISION)
    own = _per_prompt(products * factors, PROMPTS, LOCAL, RANK, J)
    return tl.where((rows < PROMPTS + LOCAL * RANK)[None, :], own, float("-inf")), products, factors


@triton.jit
def _seen_maps(
    seen_scores_ptr, row, head, seen, there, count, HEADS: tl.constexpr, RANK: tl.constexpr, R: tl.constexpr
):
    """Folded scores of a tile of visual prompts, (R, V)."""
    ranks = tl.arange(0, R)
    at = (row * RANK + ranks[:, None]) * (HEADS * count) + head * count + seen[None, :]
    return tl.load(seen_scores_ptr + at, mask=(ranks < RANK)[:, None] & there[None, :], other=0.0)


@triton.jit
def _seen_scores(
    z,
    seen_scores_ptr,
    seen_mask_ptr,
    row,
    head,
    seen,
    there,
    count,
    HEADS: tl.constexpr,
    RANK: tl.constexpr,
    MASK: tl.constexpr,
    R: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Scores of a block of tokens over a tile of visual prompts, (T, V)."""
    maps = _seen_maps(seen_scores_ptr, row, head, seen, there, count, HEADS, RANK, R)
    scores = tl.dot(z, maps, input_precision=PRECISION)
    if MASK:
        there = there & (tl.load(seen_mask_ptr + row * count + seen, mask=there, other=0) != 0)
    return tl.where(there[None, :], scores, float("-inf"))


@triton.jit
def _seen_values(
    seen_values_ptr, row, head, seen, there, count, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, D: tl.constexpr
):
    """Folded values of a tile of visual prompts, (V, D)."""
    features = tl.arange(0, D)
    at = ((row * HEADS + head) * count + seen[:, None]) * HEAD_DIM + features[None, :]
    return tl.load(seen_values_ptr + at, mask=there[:, None] & (features < HEAD_DIM)[None, :], other=0.0)
