"""The folded term of tokens that see pictures in Triton: one pass over a block of a row's tokens and one key head.

:mod:`excitor.folded_pictures` writes the scores of every token over every feature to memory. Here the softmax starts
at the tile of all learnable rows, as in :mod:`.term`, and goes on over tiles of V visual prompts of the token's row,
as in flash attention (arXiv 2205.14135): the weights so far are scaled down when a higher score turns up. The
backward pass makes the weights again from the logarithm of the softmax's denominator.

Sizes are named as in :mod:`.term`; tokens are counted over all rows of the batch, ``length`` in each. As
``num_visual``, it is no compile-time constant. A softmax over nothing at all weighs nothing: its term is zero.
"""

# What Triton's stubs say of tensors is not what its language does with them.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

import triton
import triton.language as tl

from .term import _factors, _features, _per_prompt, _prompt_scores, _scores, _total, _values


@triton.jit
def forward_kernel(
    out_ptr,  # (B * M, G * d), any floating dtype: the key with its term, or the term alone
    denominator_ptr,  # (G, B * M), fp32: logarithm of the softmax's denominator
    key_ptr,  # (B * M, G * d), in the dtype of out; read with ADD
    z_ptr,  # (B * M, r), fp32, as all that follows
    scores_ptr,  # (r, G * rows)
    values_ptr,  # (G, rows, d)
    null_ptr,  # (G,), read with NULL
    visual_scores_ptr,  # (B, r, G * num_visual)
    visual_values_ptr,  # (B, G, num_visual, d)
    mask_ptr,  # (B, num_visual), bytes, read with MASK
    length,
    num_visual,
    num_tokens,
    HEADS: tl.constexpr,
    PROMPTS: tl.constexpr,
    LOCAL: tl.constexpr,
    RANK: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ADD: tl.constexpr,
    NULL: tl.constexpr,
    MASK: tl.constexpr,
    T: tl.constexpr,
    R: tl.constexpr,
    J: tl.constexpr,
    D: tl.constexpr,
    V: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
):
    """One program per row, block of its tokens and head; heads of the same tokens lie side by side."""
    head = tl.program_id(0) % HEADS
    row, tokens, here = _block_of_row(tl.program_id(0) // HEADS, length, T)
    z = _features(z_ptr, tokens, here, RANK, R)
    dtype = out_ptr.dtype.element_ty

    scores = _scores(scores_ptr, head, HEADS, PROMPTS, LOCAL, RANK, R, J)
    values = _values(values_ptr, head, PROMPTS, LOCAL, RANK, HEAD_DIM, J, D)
    factors = _factors(z_ptr, tokens, here, PROMPTS, LOCAL, RANK, J)
    products = tl.dot(z, scores, input_precision=PRECISION)
    own, null = _prompt_scores(products * factors, null_ptr, head, PROMPTS, LOCAL, RANK, NULL, J)
    highest = tl.maximum(tl.max(own, 1), null)
    weights = tl.exp(own - _finite(highest)[:, None])
    total = _total(weights, PROMPTS, RANK, J) + tl.exp(null - _finite(highest))
    row_weights = (weights * factors).to(dtype).to(OPERAND)
    term = tl.dot(row_weights, values.to(dtype).to(OPERAND), input_precision=PRECISION)

    start = 0
    while start < num_visual:  # not a range: its bounds upset Triton's interpreter under newer NumPy
        visual = start + tl.arange(0, V)
        there = _there(mask_ptr, row, visual, num_visual, MASK)
        visual_scores = _visual_scores(visual_scores_ptr, row, head, visual, there, num_visual, HEADS, RANK, R)
        visual_values = _visual_values(visual_values_ptr, row, head, visual, there, num_visual, HEADS, HEAD_DIM, D)
        seen = tl.where(there[None, :], tl.dot(z, visual_scores, input_precision=PRECISION), float("-inf"))
        higher = tl.maximum(highest, tl.max(seen, 1))
        seen_weights = tl.exp(seen - _finite(higher)[:, None])
        shrink = tl.exp(highest - _finite(higher))
        total = total * shrink + tl.sum(seen_weights, 1)
        added = tl.dot(
            seen_weights.to(dtype).to(OPERAND), visual_values.to(dtype).to(OPERAND), input_precision=PRECISION
        )
        term = term * shrink[:, None] + added
        highest = higher
        start += V

    total = tl.where(total == 0, 1.0, total)
    term = (term / total[:, None]).to(dtype)
    features = tl.arange(0, D)
    at = tokens[:, None] * (HEADS * HEAD_DIM) + head * HEAD_DIM + features[None, :]
    mask = here[:, None] & (features < HEAD_DIM)[None, :]
    if ADD:  # fp32 holds the sum of two halves: rounding it is what adding in their dtype would give
        term = (tl.load(key_ptr + at, mask=mask, other=0.0).to(tl.float32) + term.to(tl.float32)).to(dtype)
    tl.store(out_ptr + at, term, mask=mask)
    of_token = head.to(tl.int64) * num_tokens + tokens
    tl.store(denominator_ptr + of_token, _finite(highest) + tl.log(total), mask=here)


@triton.jit
def backward_kernel(
    grad_ptr,  # (B * M, G * d), any floating dtype: gradient of the term
    term_ptr,  # (B * M, G * d), in the dtype of grad
    denominator_ptr,  # (G, B * M), fp32, as all that follows
    z_ptr,  # (B * M, r)
    scores_ptr,  # (r, G * rows)
    values_ptr,  # (G, rows, d)
    null_ptr,  # (G,), read with NULL
    visual_scores_ptr,  # (B, r, G * num_visual)
    visual_values_ptr,  # (B, G, num_visual, d)
    mask_ptr,  # (B, num_visual), bytes, read with MASK
    mean_ptr,  # (G, B * M), written: mean of the gradients of a token's weights, each weighed by its weight
    z_grad_ptr,  # (G, B * M, r): the share of each head
    scores_grad_ptr,  # (chunks, r, G * rows): the share of each chunk, as below
    values_grad_ptr,  # (chunks, G, rows, d)
    null_grad_ptr,  # (chunks, G), written with NULL
    length,
    num_visual,
    num_tokens,
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
    OPERAND: tl.constexpr,
):
    """Gradients of z and of the learnable prompts: one program per chunk and head, as in :mod:`.term`.

    A chunk is every ``num_chunks``-th of the blocks of all rows.
    """
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
        row, tokens, here = _block_of_row(block, length, T)
        z = _features(z_ptr, tokens, here, RANK, R)
        dtype = grad_ptr.dtype.element_ty
        at = tokens[:, None] * (HEADS * HEAD_DIM) + head * HEAD_DIM + features[None, :]
        mask = here[:, None] & (features < HEAD_DIM)[None, :]
        grad = tl.load(grad_ptr + at, mask=mask, other=0.0).to(OPERAND)
        term = tl.load(term_ptr + at, mask=mask, other=0.0)
        mean = tl.sum(grad.to(tl.float32) * term.to(tl.float32), 1)
        of_token = head.to(tl.int64) * num_tokens + tokens
        tl.store(mean_ptr + of_token, mean, mask=here)
        denominator = tl.load(denominator_ptr + of_token, mask=here, other=0.0)

        scores = _scores(scores_ptr, head, HEADS, PROMPTS, LOCAL, RANK, R, J)
        values = _values(values_ptr, head, PROMPTS, LOCAL, RANK, HEAD_DIM, J, D)
        factors = _factors(z_ptr, tokens, here, PROMPTS, LOCAL, RANK, J)
        products = tl.dot(z, scores, input_precision=PRECISION)
        own, null = _prompt_scores(products * factors, null_ptr, head, PROMPTS, LOCAL, RANK, NULL, J)
        weights = tl.exp(own - denominator[:, None])
        row_weights = (weights * factors).to(dtype).to(OPERAND)
        values_grad += tl.dot(tl.trans(row_weights), grad, input_precision=PRECISION)
        row_grad = tl.dot(grad, tl.trans(values.to(dtype).to(OPERAND)), input_precision=PRECISION)
        # Behind the softmax; the value of the null prompt is zero, and so is the gradient of its weight.
        prompt_grad = weights * (_per_prompt(row_grad * factors, PROMPTS, LOCAL, RANK, J) - mean[:, None])
        null_grad -= tl.exp(null - denominator) * mean
        product_grad = prompt_grad * factors
        scores_grad += tl.dot(tl.trans(product_grad), z, input_precision=PRECISION)
        z_grad = tl.dot(product_grad, tl.trans(scores), input_precision=PRECISION)
        if LOCAL > 0:  # z is a factor of scores and of values, too
            factor_grad = weights * row_grad + prompt_grad * products
            z_grad += tl.dot(factor_grad, feature_of_row.to(tl.float32), input_precision=PRECISION)

        start = 0
        while start < num_visual:
            visual = start + tl.arange(0, V)
            there = _there(mask_ptr, row, visual, num_visual, MASK)
            visual_scores = _visual_scores(visual_scores_ptr, row, head, visual, there, num_visual, HEADS, RANK, R)
            visual_values = _visual_values(visual_values_ptr, row, head, visual, there, num_visual, HEADS, HEAD_DIM, D)
            seen = tl.where(there[None, :], tl.dot(z, visual_scores, input_precision=PRECISION), float("-inf"))
            weights_grad = tl.dot(grad, tl.trans(visual_values.to(dtype).to(OPERAND)), input_precision=PRECISION)
            seen_grad = tl.exp(seen - denominator[:, None]) * (weights_grad - mean[:, None])
            z_grad += tl.dot(seen_grad, tl.trans(visual_scores), input_precision=PRECISION)
            start += V

        at = (head.to(tl.int64) * num_tokens + tokens[:, None]) * RANK + ranks[None, :]
        tl.store(z_grad_ptr + at, z_grad, mask=here[:, None] & (ranks < RANK)[None, :])
        block += num_chunks

    at = (chunk * RANK + ranks[None, :]) * (HEADS * ROWS) + head * ROWS + rows[:, None]
    tl.store(scores_grad_ptr + at, scores_grad, mask=(rows < ROWS)[:, None] & (ranks < RANK)[None, :])
    at = ((chunk * HEADS + head) * ROWS + rows[:, None]) * HEAD_DIM + features[None, :]
    tl.store(values_grad_ptr + at, values_grad, mask=(rows < ROWS)[:, None] & (features < HEAD_DIM)[None, :])
    if NULL:
        tl.store(null_grad_ptr + chunk * HEADS + head, tl.sum(null_grad, 0))


@triton.jit
def visual_backward_kernel(
    grad_ptr,  # (B * M, G * d), any floating dtype: gradient of the term
    mean_ptr,  # (G, B * M), fp32, as all that follows: from backward_kernel
    denominator_ptr,  # (G, B * M)
    z_ptr,  # (B * M, r)
    visual_scores_ptr,  # (B, r, G * num_visual)
    visual_values_ptr,  # (B, G, num_visual, d)
    mask_ptr,  # (B, num_visual), bytes, read with MASK
    visual_scores_grad_ptr,  # (B, r, G * num_visual)
    visual_values_grad_ptr,  # (B, G, num_visual, d)
    length,
    num_visual,
    num_tokens,
    num_tiles,
    HEADS: tl.constexpr,
    RANK: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    MASK: tl.constexpr,
    T: tl.constexpr,
    R: tl.constexpr,
    D: tl.constexpr,
    V: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
):
    """Gradients of the visual prompts: one program per row, tile of its visual prompts and head."""
    head = tl.program_id(0) % HEADS
    tile = tl.program_id(0) // HEADS
    row = (tile // num_tiles).to(tl.int64)
    visual = (tile % num_tiles) * V + tl.arange(0, V)
    ranks, features = tl.arange(0, R), tl.arange(0, D)
    dtype = grad_ptr.dtype.element_ty
    there = _there(mask_ptr, row, visual, num_visual, MASK)
    scores = _visual_scores(visual_scores_ptr, row, head, visual, there, num_visual, HEADS, RANK, R)
    values = _visual_values(visual_values_ptr, row, head, visual, there, num_visual, HEADS, HEAD_DIM, D)
    values = values.to(dtype).to(OPERAND)
    scores_grad = tl.zeros((V, R), tl.float32)
    values_grad = tl.zeros((V, D), tl.float32)
    start = 0
    while start < length:
        of_row = start + tl.arange(0, T)
        here = of_row < length
        tokens = row * length + of_row
        z = _features(z_ptr, tokens, here, RANK, R)
        at = tokens[:, None] * (HEADS * HEAD_DIM) + head * HEAD_DIM + features[None, :]
        mask = here[:, None] & (features < HEAD_DIM)[None, :]
        grad = tl.load(grad_ptr + at, mask=mask, other=0.0).to(OPERAND)
        of_token = head.to(tl.int64) * num_tokens + tokens
        mean = tl.load(mean_ptr + of_token, mask=here, other=0.0)
        denominator = tl.load(denominator_ptr + of_token, mask=here, other=0.0)
        seen = tl.where(there[None, :], tl.dot(z, scores, input_precision=PRECISION), float("-inf"))
        weights = tl.exp(seen - denominator[:, None])
        values_grad += tl.dot(tl.trans(weights.to(dtype).to(OPERAND)), grad, input_precision=PRECISION)
        weights_grad = tl.dot(grad, tl.trans(values), input_precision=PRECISION)
        seen_grad = weights * (weights_grad - mean[:, None])
        scores_grad += tl.dot(tl.trans(seen_grad), z, input_precision=PRECISION)
        start += T
    inside = (visual < num_visual)[:, None]
    at = (row * RANK + ranks[None, :]) * (HEADS * num_visual) + head * num_visual + visual[:, None]
    tl.store(visual_scores_grad_ptr + at, scores_grad, mask=inside & (ranks < RANK)[None, :])
    at = ((row * HEADS + head) * num_visual + visual[:, None]) * HEAD_DIM + features[None, :]
    tl.store(visual_values_grad_ptr + at, values_grad, mask=inside & (features < HEAD_DIM)[None, :])


@triton.jit
def _block_of_row(block, length, T: tl.constexpr):
    """Row that a block is in, its tokens, (T,), and which of them there are."""
    of_row = tl.cdiv(length, T)
    row = (block // of_row).to(tl.int64)
    tokens = (block % of_row) * T + tl.arange(0, T)
    return row, row * length + tokens, tokens < length


@triton.jit
def _finite(highest):
    """What to subtract before the exponential: where there is no score yet, it has to stay -inf."""
    return tl.where(highest == float("-inf"), 0.0, highest)


@triton.jit
def _there(mask_ptr, row, visual, num_visual, MASK: tl.constexpr):
    """Which visual prompts of a tile a row has, (V,)."""
    there = visual < num_visual
    if MASK:
        there = there & (tl.load(mask_ptr + row * num_visual + visual, mask=there, other=0) != 0)
    return there


@triton.jit
def _visual_scores(
    scores_ptr, row, head, visual, there, num_visual, HEADS: tl.constexpr, RANK: tl.constexpr, R: tl.constexpr
):
    """Folded scores of a tile of visual prompts, (R, V)."""
    ranks = tl.arange(0, R)
    at = (row * RANK + ranks[:, None]) * (HEADS * num_visual) + head * num_visual + visual[None, :]
    return tl.load(scores_ptr + at, mask=(ranks < RANK)[:, None] & there[None, :], other=0.0)


@triton.jit
def _visual_values(
    values_ptr, row, head, visual, there, num_visual, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, D: tl.constexpr
):
    """Their folded values, (V, D)."""
    features = tl.arange(0, D)
    at = ((row * HEADS + head) * num_visual + visual[:, None]) * HEAD_DIM + features[None, :]
    return tl.load(values_ptr + at, mask=there[:, None] & (features < HEAD_DIM)[None, :], other=0.0)
