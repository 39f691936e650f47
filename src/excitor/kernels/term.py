"""The folded term in Triton: one pass over a block of tokens and one key head, forward and backward.

What :mod:`excitor.folded` computes in many operations stays in registers here. A tile holds all J rows of a head,
those of local prompts included: the product of such a row counts times the token's feature that belongs to it
(``factors``), and all rows of one local prompt carry its score and its weight, so that only the first of them counts
in the softmax.

Sizes in capitals are compile-time constants: HEADS is G, PROMPTS is K, LOCAL is ``K_l``, RANK is r and HEAD_DIM is d
as they are, and T tokens, R, J and D are the sides of tiles, powers of two with masks behind the true sizes. Scores
and their gradients are fp32 throughout; what is multiplied with values or with the gradient is rounded to the dtype of
the key, and multiplied as OPERAND: the same dtype, but for the interpreter, whose products know no bf16.
"""

# What Triton's stubs say of tensors is not what its language does with them.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

import triton
import triton.language as tl


@triton.jit
def forward_kernel(
    out_ptr,  # (N, G * d), any floating dtype: the key with its term, or the term alone
    key_ptr,  # (N, G * d), in the dtype of out; read with ADD
    z_ptr,  # (N, r), fp32, as all that follows
    scores_ptr,  # (r, G * rows)
    values_ptr,  # (G, rows, d)
    null_ptr,  # (G,), read with NULL
    num_tokens,
    HEADS: tl.constexpr,
    PROMPTS: tl.constexpr,
    LOCAL: tl.constexpr,
    RANK: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ADD: tl.constexpr,
    NULL: tl.constexpr,
    T: tl.constexpr,
    R: tl.constexpr,
    J: tl.constexpr,
    D: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
):
    """One program per block of tokens and head; heads of the same tokens lie side by side."""
    head = tl.program_id(0) % HEADS
    tokens = (tl.program_id(0) // HEADS).to(tl.int64) * T + tl.arange(0, T)
    here = tokens < num_tokens
    z = _features(z_ptr, tokens, here, RANK, R)
    scores = _scores(scores_ptr, head, HEADS, PROMPTS, LOCAL, RANK, R, J)
    values = _values(values_ptr, head, PROMPTS, LOCAL, RANK, HEAD_DIM, J, D)
    factors = _factors(z_ptr, tokens, here, PROMPTS, LOCAL, RANK, J)
    products = tl.dot(z, scores, input_precision=PRECISION)
    weights, _ = _weights(products * factors, null_ptr, head, PROMPTS, LOCAL, RANK, NULL, J)
    dtype = out_ptr.dtype.element_ty
    row_weights = (weights * factors).to(dtype).to(OPERAND)
    term = tl.dot(row_weights, values.to(dtype).to(OPERAND), input_precision=PRECISION).to(dtype)
    features = tl.arange(0, D)
    at = tokens[:, None] * (HEADS * HEAD_DIM) + head * HEAD_DIM + features[None, :]
    mask = here[:, None] & (features < HEAD_DIM)[None, :]
    if ADD:  # fp32 holds the sum of two halves: rounding it is what adding in their dtype would give
        term = (tl.load(key_ptr + at, mask=mask, other=0.0).to(tl.float32) + term.to(tl.float32)).to(dtype)
    tl.store(out_ptr + at, term, mask=mask)


@triton.jit
def backward_kernel(
    grad_ptr,  # (N, G * d), any floating dtype: gradient of the term
    z_ptr,  # (N, r), fp32, as all that follows
    scores_ptr,  # (r, G * rows)
    values_ptr,  # (G, rows, d)
    null_ptr,  # (G,), read with NULL
    z_grad_ptr,  # (G, N, r): the share of each head
    scores_grad_ptr,  # (chunks, r, G * rows): the share of each chunk, as below
    values_grad_ptr,  # (chunks, G, rows, d)
    null_grad_ptr,  # (chunks, G), written with NULL
    num_tokens,
    num_chunks,
    HEADS: tl.constexpr,
    PROMPTS: tl.constexpr,
    LOCAL: tl.constexpr,
    RANK: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    NULL: tl.constexpr,
    T: tl.constexpr,
    R: tl.constexpr,
    J: tl.constexpr,
    D: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
):
    """One program per chunk and head; a chunk is every ``num_chunks``-th block of tokens.

    Nothing is added up by atomics, so that gradients are the same bit for bit from run to run.
    """
    head = tl.program_id(0) % HEADS
    chunk = tl.program_id(0) // HEADS
    ROWS: tl.constexpr = PROMPTS + LOCAL * RANK
    ranks, rows, features = tl.arange(0, R), tl.arange(0, J), tl.arange(0, D)
    # Which feature of z a row of a local prompt is multiplied by.
    feature_of_row = ((rows >= PROMPTS) & (rows < ROWS))[:, None] & (
        ((rows - PROMPTS) % RANK)[:, None] == ranks[None, :]
    )
    scores_grad = tl.zeros((J, R), tl.float32)  # this way round it takes fewer registers
    values_grad = tl.zeros((J, D), tl.float32)
    null_grad = tl.zeros((T,), tl.float32)
    block = chunk
    while block * T < num_tokens:  # not a range: its bounds upset Triton's interpreter under newer NumPy
        tokens = block.to(tl.int64) * T + tl.arange(0, T)
        here = tokens < num_tokens
        z = _features(z_ptr, tokens, here, RANK, R)
        # Read anew for each block: as operands of products they would not fit into registers beside the rest.
        scores = _scores(scores_ptr, head, HEADS, PROMPTS, LOCAL, RANK, R, J)
        values = _values(values_ptr, head, PROMPTS, LOCAL, RANK, HEAD_DIM, J, D)
        factors = _factors(z_ptr, tokens, here, PROMPTS, LOCAL, RANK, J)
        products = tl.dot(z, scores, input_precision=PRECISION)
        weights, null_weight = _weights(products * factors, null_ptr, head, PROMPTS, LOCAL, RANK, NULL, J)

        at = tokens[:, None] * (HEADS * HEAD_DIM) + head * HEAD_DIM + features[None, :]
        mask = here[:, None] & (features < HEAD_DIM)[None, :]
        dtype = grad_ptr.dtype.element_ty
        grad = tl.load(grad_ptr + at, mask=mask, other=0.0).to(OPERAND)
        row_weights = (weights * factors).to(dtype).to(OPERAND)
        values_grad += tl.dot(tl.trans(row_weights), grad, input_precision=PRECISION)
        row_grad = tl.dot(grad, tl.trans(values.to(dtype).to(OPERAND)), input_precision=PRECISION)

        # Behind the softmax; the value of the null prompt is zero, and so is the gradient of its weight.
        mean = tl.sum(weights * factors * row_grad, 1)
        prompt_grad = weights * (_per_prompt(row_grad * factors, PROMPTS, LOCAL, RANK, J) - mean[:, None])
        null_grad -= null_weight * mean
        product_grad = prompt_grad * factors
        scores_grad += tl.dot(tl.trans(product_grad), z, input_precision=PRECISION)
        z_grad = tl.dot(product_grad, tl.trans(scores), input_precision=PRECISION)
        if LOCAL > 0:  # z is a factor of scores and of values, too
            factor_grad = weights * row_grad + prompt_grad * products
            z_grad += tl.dot(factor_grad, feature_of_row.to(tl.float32), input_precision=PRECISION)
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
def _features(z_ptr, tokens, here, RANK: tl.constexpr, R: tl.constexpr):
    """``z`` of a block, (T, R)."""
    ranks = tl.arange(0, R)
    mask = here[:, None] & (ranks < RANK)[None, :]
    return tl.load(z_ptr + tokens[:, None] * RANK + ranks[None, :], mask=mask, other=0.0)


@triton.jit
def _scores(
    scores_ptr,
    head,
    HEADS: tl.constexpr,
    PROMPTS: tl.constexpr,
    LOCAL: tl.constexpr,
    RANK: tl.constexpr,
    R: tl.constexpr,
    J: tl.constexpr,
):
    """Folded scores of a head, (R, J)."""
    ROWS: tl.constexpr = PROMPTS + LOCAL * RANK
    ranks, rows = tl.arange(0, R), tl.arange(0, J)
    at = ranks[:, None] * (HEADS * ROWS) + head * ROWS + rows[None, :]
    return tl.load(scores_ptr + at, mask=(ranks < RANK)[:, None] & (rows < ROWS)[None, :], other=0.0)


@triton.jit
def _values(
    values_ptr,
    head,
    PROMPTS: tl.constexpr,
    LOCAL: tl.constexpr,
    RANK: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    J: tl.constexpr,
    D: tl.constexpr,
):
    """Folded values of a head, (J, D)."""
    ROWS: tl.constexpr = PROMPTS + LOCAL * RANK
    rows, features = tl.arange(0, J), tl.arange(0, D)
    at = (head * ROWS + rows[:, None]) * HEAD_DIM + features[None, :]
    return tl.load(values_ptr + at, mask=(rows < ROWS)[:, None] & (features < HEAD_DIM)[None, :], other=0.0)


@triton.jit
def _factors(
    z_ptr,
    tokens,
    here,
    PROMPTS: tl.constexpr,
    LOCAL: tl.constexpr,
    RANK: tl.constexpr,
    J: tl.constexpr,
):
    """What a token multiplies each row by, (T, J): its own features for the rows of local prompts, else 1."""
    rows = tl.arange(0, J)
    mask = here[:, None] & ((rows >= PROMPTS) & (rows < PROMPTS + LOCAL * RANK))[None, :]
    return tl.load(z_ptr + tokens[:, None] * RANK + ((rows - PROMPTS) % RANK)[None, :], mask=mask, other=1.0)


@triton.jit
def _per_prompt(tile, PROMPTS: tl.constexpr, LOCAL: tl.constexpr, RANK: tl.constexpr, J: tl.constexpr):
    """Sums over the rows of each local prompt, in all of its rows, (T, J); global prompts have one row."""
    rows = tl.arange(0, J)
    for local in tl.static_range(LOCAL):  # pyright: ignore[reportGeneralTypeIssues]
        own = ((rows >= PROMPTS + local * RANK) & (rows < PROMPTS + (local + 1) * RANK))[None, :]
        total = tl.sum(tl.where(own, tile, 0.0), 1)
        tile = tl.where(own, total[:, None], tile)
    return tile


@triton.jit
def _weights(
    tile,
    null_ptr,
    head,
    PROMPTS: tl.constexpr,
    LOCAL: tl.constexpr,
    RANK: tl.constexpr,
    NULL: tl.constexpr,
    J: tl.constexpr,
):
    """Attention over the prompts in all of their rows, (T, J), and that of the null prompt, (T,); zero without one."""
    scores, null = _prompt_scores(tile, null_ptr, head, PROMPTS, LOCAL, RANK, NULL, J)
    highest = tl.maximum(tl.max(scores, 1), null)
    weights = tl.exp(scores - highest[:, None])
    null_weight = tl.exp(null - highest)
    total = _total(weights, PROMPTS, RANK, J) + null_weight
    return weights / total[:, None], null_weight / total


@triton.jit
def _prompt_scores(
    tile,
    null_ptr,
    head,
    PROMPTS: tl.constexpr,
    LOCAL: tl.constexpr,
    RANK: tl.constexpr,
    NULL: tl.constexpr,
    J: tl.constexpr,
):
    """Scores of the prompts in all of their rows, (T, J), and of the null prompt, (T,); -inf where there is none."""
    rows = tl.arange(0, J)
    scores = tl.where(
        (rows < PROMPTS + LOCAL * RANK)[None, :], _per_prompt(tile, PROMPTS, LOCAL, RANK, J), float("-inf")
    )
    null = tl.full((tile.shape[0],), float("-inf"), tl.float32)
    if NULL:
        null = tl.full((tile.shape[0],), 0.0, tl.float32) + tl.load(null_ptr + head)
    return scores, null


@triton.jit
def _total(weights, PROMPTS: tl.constexpr, RANK: tl.constexpr, J: tl.constexpr):
    """Sums over the prompts of what stands in all of their rows, (T,)."""
    rows = tl.arange(0, J)
    first = (rows < PROMPTS) | ((rows - PROMPTS) % RANK == 0)
    return tl.sum(tl.where(first[None, :], weights, 0.0), 1)
