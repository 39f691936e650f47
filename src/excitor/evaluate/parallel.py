"""Several processes (``accelerate launch``) share a task's items; a single one does them all."""

from itertools import chain, zip_longest
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, parse_flag_from_env


T = TypeVar("T")

_NOTHING: Any = object()


def this_process() -> PartialState:
    """This process among those that were launched; it has to be told whether they compute on the CPU."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())


def share(count: int) -> range:
    """The places of the items that this process does, out of ``count``."""
    state = this_process()
    return range(state.process_index, count, state.num_processes)


def gather(items: list[T]) -> list[T]:
    """The items of all processes, in the order that :func:`share` took apart; every process gets them."""
    if this_process().num_processes == 1:
        return items
    dealt = chain.from_iterable(zip_longest(*gather_object([items]), fillvalue=_NOTHING))
    return [item for item in dealt if item is not _NOTHING]


def from_main(value: T) -> T:
    """The main process's value, in every process."""
    this_process()
    return broadcast_object_list([value])[0]
