"""What is timed: a training step, prefill, cached decoding; and what is counted: bytes kept for the backward pass."""

from collections.abc import Callable

import torch
from methods import Method, Size
from transformers import DynamicCache

from excitor.diagnostics.saved import saved_tensors


PROMPT, NEW_TOKENS = 64, 16
SHORT_PROMPT = 8  # so that decoding is hardly anything but that


def training_step(method: Method, size: Size) -> Callable[[], None]:
    """Forward, backward and one AdamW step on random tokens; for the frozen base forward and backward alone."""
    parameters = [p for p in method.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-5) if method.trains else None
    if not method.trains:
        method.model.enable_input_require_grads()
    tokens = _tokens(method, size, size.batch, size.length)

    def step() -> None:
        with method.chosen() as model:
            model.train()
            model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
            if optimizer is not None:
                optimizer.step()
                optimizer.zero_grad()

    return step


def prefill(method: Method, size: Size, batch: int) -> Callable[[], None]:
    """One pass over prompts that fills the cache."""
    tokens = _tokens(method, size, batch, PROMPT)

    def run() -> None:
        with method.chosen() as model, torch.inference_mode():
            model.eval()
            model(input_ids=tokens, attention_mask=torch.ones_like(tokens), logits_to_keep=1)

    return run


def decoding(method: Method, size: Size, batch: int) -> Callable[[], None]:
    """Greedy decoding with the cache."""
    tokens = _tokens(method, size, batch, SHORT_PROMPT)

    def run() -> None:
        with method.chosen() as model:
            model.eval()
            model.generate(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                do_sample=False,
                pad_token_id=0,
                max_new_tokens=NEW_TOKENS,
                min_new_tokens=NEW_TOKENS,
            )

    return run


def one_token(method: Method, size: Size, context: int, repeats: int = 4) -> Callable[[], None]:
    """One token after a context that is in the cache already, several times over."""
    key = torch.randn(1, size.key_heads, context, size.width // size.heads, dtype=size.dtype)
    cache = DynamicCache()
    for layer in range(size.layers):
        cache.update(key.to(method.model.device), key.to(method.model.device), layer)
    tokens = _tokens(method, size, 1, 1)

    def run() -> None:
        with method.chosen() as model, torch.inference_mode():
            model.eval()
            for _ in range(repeats):
                model(input_ids=tokens, past_key_values=cache, use_cache=True)
                cache.crop(-1)

    return run


def bytes_kept(method: Method, size: Size) -> float:
    """Bytes that a training forward pass keeps for each token: the slope between two lengths, exact."""
    found = []
    if not method.trains:
        method.model.enable_input_require_grads()
    for length in (size.length, 2 * size.length):
        tokens = _tokens(method, size, size.batch, length)
        with method.chosen() as model, saved_tensors(model) as saved:
            model.train()
            loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        found.append(saved.bytes)
        del loss
    return (found[1] - found[0]) / (size.batch * size.length)


def _tokens(method: Method, size: Size, batch: int, length: int) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randint(3, size.vocabulary, (batch, length), device=method.model.device)
