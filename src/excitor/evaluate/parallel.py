"""Several processes (``accelerate launch``) share a task's batches; a single one does them all."""

from collections.abc import Sequence
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, parse_flag_from_env


K = TypeVar("K")
T = TypeVar("T")


def this_process() -> PartialState:
    """This process among those that were launched; it has to be told whether they compute on the CPU."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())


def share(parts: Sequence[T]) -> Sequence[T]:
    """Those parts that this process does.

    Args:
        parts: The same in all processes. Where they are batches, a number does not depend on how many processes there
            are, down to the last bit: what shares its batch stays the same.
    """
    state = this_process()
    return parts[state.process_index :: state.num_processes]


def merge(own: dict[K, T]) -> dict[K, T]:
    """What all processes have found; every process gets it."""
    if this_process().num_processes == 1:
        return own
    return {key: value for part in gather_object([own]) for key, value in part.items()}


def from_main(value: T) -> T:
    """The main process's value, in every process."""
    this_process()
    return broadcast_object_list([value])[0]
