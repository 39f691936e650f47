"""One batch, a different adapter for each row: PEFT's ``adapter_names``, in forward and in generate."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from peft import PeftConfig
from torch import Tensor, nn

from .errors import ExcitorError
from .registration import AuxiliaryTrainingWrapper
from .visual import seeing, seen


BASE = "__base__"  # PEFT's name for a row that is to see the base model


@contextmanager
def mixed_batch(
    model: nn.Module,
    layer_class: type[nn.Module],
    adapters: Mapping[str, PeftConfig],
    names: Sequence[str],
    arguments: Mapping[str, Any],
) -> Iterator[None]:
    """Within it each row of a batch is run under the adapter named for it.

    Args:
        model: The adapted model.
        layer_class: Of the adapted layers; their ``forward`` takes ``adapter_names``.
        adapters: The model's adapters by name.
        names: One name a row, ``"__base__"`` for rows without an adapter.
        arguments: Of the call to ``forward`` or ``generate``.

    Raises:
        ExcitorError: The model is in training mode, there is no adapter of a name, or (from within) a batch has
            another number of rows than there are names.
    """
    _check_names(model, adapters, names)
    _check_rows(arguments, names)
    copies = _copies_of_each_row(arguments)

    def name_rows(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        rows = _fitted_to(args[0], names, copies)
        if isinstance(module, AuxiliaryTrainingWrapper):  # PEFT's own: rows whose adapter it lacks see the original
            rows = [name if name in module._get_available_adapters() else BASE for name in rows]
        return args, kwargs | {"adapter_names": rows}

    with ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, layer_class | AuxiliaryTrainingWrapper):
                hooks.callback(module.register_forward_pre_hook(name_rows, with_kwargs=True).remove)
        yield


def refuse_adapter_names(arguments: Mapping[str, Any], method: str) -> None:
    """Refuse what a method would ignore.

    Raises:
        ExcitorError: The arguments of a call hold adapter names.
    """
    if arguments.get("adapter_names") is not None:
        raise ExcitorError(f"{method} know no `adapter_names`: choose one for all rows, with set_adapter(name).")


def by_row(term: Callable[[str, Tensor], Tensor], x: Tensor, names: Sequence[str | None]) -> list[Tensor]:
    """The terms of each row's own adapter as terms of the whole batch, zero in the rows of others.

    Args:
        term: Of an adapter's name and layer inputs ``(B', ..., C)``, gives its term ``(B', ..., G * d)``.
        x: ``(B, ..., C)``.
        names: B adapter names; None for a row without a term.

    Returns:
        One term, ``(B, ..., G * d)``; none if no row has any.
    """
    total: Tensor | None = None
    for name in dict.fromkeys(names):
        if name is not None:
            rows = torch.tensor([row for row, of in enumerate(names) if of == name], device=x.device)
            pictures = seen()
            with seeing(None if pictures is None else pictures.select(rows, len(x))):
                own = term(name, x.index_select(0, rows))
            if total is None:
                total = own.new_zeros(len(x), *own.shape[1:])
            total = total.index_copy(0, rows, own.to(total.dtype))
    return [] if total is None else [total]


def _check_names(model: nn.Module, adapters: Mapping[str, PeftConfig], names: Sequence[str]) -> None:
    if model.training:
        raise ExcitorError(
            "Cannot pass `adapter_names` when the model is in training mode. "
            "Call model.eval(), or train one adapter at a time, with set_adapter(name)."
        )
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ExcitorError(f"`adapter_names` must be a list of names, one for each row of the batch, got {names!r}.")
    if unknown := sorted(set(names) - {BASE} - adapters.keys()):
        raise ExcitorError(
            f"Trying to infer with non-existing adapter(s): {', '.join(unknown)}. "
            f"`adapter_names` may name: {', '.join([*adapters, BASE])}."
        )


def _check_rows(arguments: Mapping[str, Any], names: Sequence[str]) -> None:
    """Refuse another number of rows, before ``generate`` makes copies of them that might come to as many as names."""
    for name in ("input_ids", "inputs", "inputs_embeds"):
        rows = arguments.get(name)
        if isinstance(rows, Tensor) and len(rows) != len(names):
            raise _of_another_length(names, len(rows))


def _of_another_length(names: Sequence[str], rows: int) -> ExcitorError:
    return ExcitorError(
        f"Length of `adapter_names` should be the same as the number of inputs, but got {len(names)} and {rows} "
        "respectively: give one name a row, and num_beams and num_return_sequences as arguments of generate."
    )


def _copies_of_each_row(arguments: Mapping[str, Any]) -> int:
    """Rows that ``generate`` makes of each row it is given: beams, or several sequences to return."""
    config = arguments.get("generation_config")
    wanted = [
        arguments[setting] if arguments.get(setting) is not None else getattr(config, setting, None)
        for setting in ("num_beams", "num_return_sequences")
    ]
    return max(1, *(count or 1 for count in wanted))


def _fitted_to(batch: Tensor, names: Sequence[str], copies: int) -> list[str]:
    """The name of each row of a batch; the encoder of a sequence-to-sequence model sees no copies."""
    if len(batch) == len(names):
        return list(names)
    if len(batch) == copies * len(names):
        return [name for name in names for _ in range(copies)]
    raise _of_another_length(names, len(batch))
