"""The fast path in C++, for decoding on a CPU; the machine's compiler builds it when it is first used."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.utils import cpp_extension

from ..fold_cache import Kept
from ..implementation import cannot_be_had


if TYPE_CHECKING:
    from ..fast_path import FastPath, Watched


MOST_TOKENS = 64  # for more of them PyTorch's matrix products are faster
SOURCE = Path(__file__).with_name("decode.cpp")
# Not -march=native: machines of several kinds may share the folder that extensions are built in.
FLAGS = {"AVX2": ["-mavx2", "-mfma"], "AVX512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"]}
HOOKS = "_backward_hooks", "_backward_pre_hooks", "_forward_hooks", "_forward_pre_hooks"


def decodes(base: nn.Module, kept: Kept) -> bool:
    """Whether it can stand in for a projection: on a CPU, a linear map and nothing else, with an adapter in fp32.

    Args:
        base: The projection.
        kept: What the adapter folds to.
    """
    parameters = [p for p in base._parameters.values() if p is not None]
    return (
        type(base) is nn.Linear
        and "forward" not in vars(base)
        and all(type(p) is nn.Parameter and p.device.type == "cpu" for p in parameters)
        and all(p.dtype in (torch.float32, torch.bfloat16, torch.float16) for p in parameters)
        and all(p.dtype == torch.float32 for p in kept.parameters)
    )


def make_decoder(
    state: dict[str, Any], watched: "list[Watched]", base: nn.Module, kept: Kept, a: Tensor
) -> "FastPath":
    """The fast path of a projection that this ``decodes``, for up to ``MOST_TOKENS`` tokens.

    Args:
        state: What of the layer itself has to stay as it is.
        watched: What else has to.
        base: The projection.
        kept: What the adapter folds to.
        a: Down projection, ``(C, r)``, in fp32.

    Raises:
        ExcitorError: It cannot be built.
    """
    extension = _extension()
    own = [(vars(base), "forward", None), *((base._parameters, *item) for item in base._parameters.items())]
    silent = [vars(base)[name] for name in HOOKS] + [vars(hooks)[f"_global{name}"] for name in HOOKS]
    scores, values, null_bias, *counts = kept.folded
    folded = extension.Folded(a.T.contiguous(), scores.contiguous(), values, null_bias, *counts)
    parameters = list(zip(kept.parameters, kept.versions, kept.addresses, strict=True))
    return extension.Decoder(state, [*watched, *own], silent, parameters, base.weight, base.bias, folded, MOST_TOKENS)


@functools.cache
def _extension() -> Any:
    level = torch.backends.cpu.get_cpu_capability()
    try:
        return cpp_extension.load(f"excitor_{level.lower()}", [str(SOURCE)], ["-O3", "-fopenmp-simd", *FLAGS.get(level, [])])
    except (RuntimeError, OSError, ImportError) as error:
        raise cannot_be_had(
            "cpp", f"building it takes a C++ compiler and ninja (pip install ninja), and failed: {error}"
        ) from error
