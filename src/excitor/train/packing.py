"""Whether examples packed into one sequence really do not see each other."""

from typing import Any

import torch
from torch import Tensor, nn

from excitor.errors import ExcitorError


def check_packing(model: nn.Module, batch: dict[str, Any], first: int) -> None:
    """Check with one pass that, of two packed examples, the second does not depend on the first.

    What keeps them apart is the model's own code: it has to build its attention mask from ``position_ids``, or hand
    them to a kernel that does. Some architectures, attention implementations and PEFT methods leave them aside without
    a word. The gradient of the second example's loss with respect to the first one's embeddings is exactly 0 where
    nothing leaks, in any precision.

    Args:
        model: As it is trained, adapter included.
        batch: Two examples in one row, as the trainer's collator packs them, with labels on the second alone.
        first: Tokens of the first example.

    Raises:
        ExcitorError: The second depends on the first.
    """
    embedded: list[Tensor] = []

    def cut(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    base: Any = model
    device = next(model.parameters()).device
    values = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
    was_training = model.training
    hook = base.get_input_embeddings().register_forward_hook(cut)
    try:
        model.eval()
        with torch.enable_grad():
            loss = model(**values, use_cache=False).loss
            (gradient,) = torch.autograd.grad(loss, embedded[-1])
    finally:
        hook.remove()
        model.train(was_training)
    if gradient[:, :first].count_nonzero():
        config = base.config
        raise ExcitorError(
            f"--packing: {config.model_type} with the attention implementation {config._attn_implementation!r} and "
            "this adapter lets packed examples see each other, so that the model would learn from mixtures of them. "
            "Leave out --packing; --group-by-length saves padding too."
        )
