"""The fast path in C++, for decoding on a CPU; the machine's compiler builds it when it is first used."""

import functools
import hashlib
import os
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as hooks

from ..fold_cache import Kept
from ..implementation import cannot_be_had


if TYPE_CHECKING:
    from ..fast_path import Conditions


MOST_TOKENS = 64  # for about a hundred PyTorch's matrix products are as fast on one thread
SOURCE = Path(__file__).with_name("decode.cpp")
# Not -march=native: machines of several kinds may share the folder that extensions are built in.
LEVELS = {"AVX2": ["-mavx2", "-mfma"], "AVX512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"]}
HOOKS = "_backward_hooks", "_backward_pre_hooks", "_forward_hooks", "_forward_pre_hooks"
DTYPES = torch.float32, torch.bfloat16, torch.float16


def decodes(base: nn.Module, kept: Kept) -> bool:
    """Whether it can stand in for a projection: on a CPU, a linear map and nothing else, with an adapter in fp32.

    Args:
        base: The projection.
        kept: What the adapter folds to.
    """
    parameters = base._parameters
    return (
        type(base) is nn.Linear
        and functional.linear.__class__ is type(torch.mm)  # not a Python function in its place
        and nn.Linear.forward.__module__ == nn.Linear.__module__
        and "forward" not in vars(base)
        and parameters.keys() == {"weight", "bias"}
        and all(type(p) is nn.Parameter and p.device.type == "cpu" for p in parameters.values() if p is not None)
        and parameters["weight"] is not None
        and parameters["weight"].dtype in DTYPES
        and all(p.dtype == torch.float32 for p in kept.parameters)
    )


def decoder(conditions: "Conditions", base: nn.Module, a: Tensor) -> Callable[[Tensor, dict[str, Any]], Tensor | None]:
    """The ``key`` of a :class:`excitor.fast_path.FastPath` for a projection that this ``decodes``.

    It is for up to ``MOST_TOKENS`` tokens. Python holds what the C++ reads, so that memory is given back even where
    any of it refers to the layer.

    Args:
        conditions: See there.
        base: The projection.
        a: Down projection, ``(C, r)``, in fp32.

    Raises:
        ExcitorError: It cannot be built.
    """
    state, active, watched, kept = conditions
    function = vars(functional), "linear", functional.linear
    silent = [vars(base)[name] for name in HOOKS] + [vars(hooks)[f"_global{name}"] for name in HOOKS]
    parameters = list(zip(kept.parameters, kept.versions, kept.addresses, strict=True))
    kind = nn.Linear, "forward", nn.Linear.forward
    scores, values, null_bias, *counts = kept.folded
    tensors = [None if t is None else t.contiguous() for t in (a.T, scores, values, null_bias)]
    native = extension()
    unchanged = state, active, [*watched, function], silent, parameters, kind
    folded = native.Folded(*tensors, *counts, MOST_TOKENS)
    return functools.partial(native.decode, folded, unchanged, base, base.weight, base.bias)


@functools.cache
def extension() -> Any:
    """The compiled module.

    Raises:
        ExcitorError: It cannot be built.
    """
    level = torch.backends.cpu.get_cpu_capability()
    flags = ["/O2"] if os.name == "nt" else ["-O3", "-fopenmp-simd", *LEVELS.get(level, [])]
    # Ninja goes by dates: files of another version, or another PyTorch, need not be newer than what was built.
    version = hashlib.sha256(SOURCE.read_bytes() + repr((flags, torch.__version__)).encode()).hexdigest()[:16]
    try:
        from torch.utils import cpp_extension

        with _own_programs():
            return cpp_extension.load(f"excitor_{version}", [str(SOURCE)], flags)
    except (RuntimeError, OSError, ImportError, subprocess.SubprocessError) as error:
        raise cannot_be_had(
            "cpp",
            "building it takes a C++ compiler, ninja and setuptools (pip install ninja setuptools) and a folder that "
            f"can be written to (TORCH_EXTENSIONS_DIR), and failed: {str(error).strip()}",
        ) from error


@contextmanager
def _own_programs() -> Iterator[None]:
    """Find what pip has installed beside this Python, where its environment is not activated: ninja."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([before, sysconfig.get_path("scripts")])
    try:
        yield
    finally:
        os.environ["PATH"] = before
