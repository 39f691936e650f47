"""The pytest plugin that puts Excitor into PEFT's tests without editing their files.

It replaces the lists that PEFT's tests run over (``MATRICES``), gives Excitor to tests written for LoRA
(``STAND_INS``), leaves all others out, and counts a test of merging as an expected failure if the method's own refusal
is its reason.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from types import ModuleType
from typing import Any

import peft
import pytest
import torch
from matrix import EXCLUDED, KEY_PROJECTIONS, MATRICES, STAND_INS

from excitor import ExcitorConfig, ExcitorModel
from excitor.families import FAMILIES
from excitor.layer import NO_MERGE


REFUSED = "merging is refused"  # the reason by which these outcomes are counted
_prepare = ExcitorModel._prepare_adapter_config
_chosen: set[tuple[str, str]] = set()  # modules and tests that are about Excitor now


class LoraStandIn(ExcitorConfig):
    """Called like LoraConfig, gives an ExcitorConfig: fields that both have are kept, LoRA's own are left out."""

    def __new__(cls, *args: Any, **fields: Any) -> Any:  # noqa: D102
        return _in_place_of(peft.LoraConfig(*args, **fields))


def _in_place_of(config: peft.LoraConfig) -> ExcitorConfig:
    shared = {field.name for field in dataclasses.fields(ExcitorConfig)} - {"peft_type"}
    fields = {name: value for name, value in vars(config).items() if name in shared}
    if config.target_modules == "all-linear":  # refused, as it would make keys of everything
        del fields["target_modules"]
    return ExcitorConfig(**fields, init_weights=config.init_lora_weights is not False)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers of PEFT's own settings; let architectures be known that are not yet."""
    ExcitorModel._prepare_adapter_config = _prepare_adapter_config
    for marker in ("single_gpu_tests", "multi_gpu_tests", "regression", "bitsandbytes"):
        config.addinivalue_line("markers", marker)


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrise with our rows in place of PEFT's."""
    module, test = _name(metafunc.module), metafunc.definition.originalname
    chosen = STAND_INS.get(module, set())
    stands_in = test in chosen or (metafunc.cls is not None and metafunc.cls.__name__ in chosen)
    ours = stands_in
    marks = metafunc.definition.own_markers
    for index, mark in enumerate(marks):
        if mark.name == "parametrize":
            names, values, *rest = mark.args
            rows = _rows_in_place_of(values, metafunc.module)
            ours = ours or rows is not None
            values = rows if rows is not None else _translated(values) if stands_in else values
            kwargs = {key: value for key, value in mark.kwargs.items() if key != "ids"}
            marks[index] = pytest.mark.parametrize(names, values, *rest, **kwargs).mark
    if ours and test not in EXCLUDED:
        _chosen.add((module, test))


def _rows_in_place_of(values: Any, module: ModuleType) -> list[Any] | None:
    for name, rows in MATRICES.get(_name(module), {}).items():
        theirs = getattr(module, name)
        if values is theirs or (isinstance(theirs, dict) and list(values) == list(theirs.values())):
            return rows
    return None


def _translated(values: Any) -> list[Any]:
    """Of the parameters of a test those that are about LoRA, with Excitor in its place; if none is, all of them."""
    about_lora = [new for old in values if (new := _put_in(old)) is not old]
    return about_lora or list(values)


def _put_in(value: Any) -> Any:
    if type(value) is peft.LoraConfig:
        return _in_place_of(value)
    if value is peft.LoraConfig:
        return LoraStandIn
    if "LoraConfig" in getattr(getattr(value, "__code__", None), "co_names", ()):
        return lambda *args, **kwargs: value(*args, **kwargs)  # a test's own factory, which finds the stand-in
    if isinstance(value, tuple):  # also pytest.param(...)
        new = tuple(map(_put_in, value))
        if any(a is not b for a, b in zip(new, value, strict=True)):
            return type(value)(*new) if hasattr(value, "_fields") else new
    return value


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Function]) -> None:
    """Keep what is ours, but for models whose keys are not known."""
    left_out = [
        item for item in items if (_name(item.module), item.originalname) not in _chosen or not _has_keys(item)
    ]
    config.hook.pytest_deselected(items=left_out)
    dropped = set(left_out)
    items[:] = [item for item in items if item not in dropped]


def _has_keys(item: pytest.Function) -> bool:
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    file = Path(str(parameters.get("model_id"))) / "config.json"
    return not file.exists() or json.loads(file.read_text())["model_type"] in {*FAMILIES, *KEY_PROJECTIONS}


def _prepare_adapter_config(self: ExcitorModel, config: ExcitorConfig, model_config: dict[str, Any]) -> ExcitorConfig:
    """Name the key projections of architectures whose users have to."""
    model_type = model_config.get("model_type")
    if config.target_modules is None and model_type not in FAMILIES and model_type in KEY_PROJECTIONS:
        config.target_modules = {KEY_PROJECTIONS[model_type]}
    return _prepare(self, config, model_config)


@pytest.fixture(autouse=True, scope="module")
def _stand_in(request: pytest.FixtureRequest) -> Generator[None]:
    """Within a module of STAND_INS the name LoraConfig means Excitor."""
    module = request.module
    with pytest.MonkeyPatch.context() as patch:
        if _name(module) in STAND_INS and hasattr(module, "LoraConfig"):
            patch.setattr(module, "LoraConfig", LoraStandIn)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    """Run a test; one that ends with the refusal to merge has met what the method promises."""
    with pytest.MonkeyPatch.context() as patch:
        if hasattr(pyfuncitem.cls, "prepare_inputs_for_testing"):
            patch.setattr(pyfuncitem.cls, "prepare_inputs_for_testing", _distinct(pyfuncitem.cls))
        if "mixed_adapter_batches" in pyfuncitem.name and _name(pyfuncitem.module) not in STAND_INS:
            common = sys.modules[pyfuncitem.module.__package__ + ".testing_common"]
            for module in (common, pyfuncitem.module):  # LoRA is the only method that they let through
                patch.setattr(module, "LoraConfig", ExcitorConfig, raising=False)
        try:
            return (yield)
        except BaseException as error:
            reason: BaseException | None = error
            while reason is not None and NO_MERGE not in str(reason):
                reason = reason.__context__
            if reason is None:
                raise
    pytest.xfail(REFUSED)


def _distinct(cls: Any) -> Callable[[Any], dict[str, torch.Tensor]]:
    """A test's inputs with a token of its own at each place.

    PEFT's are one token again and again. Without absolute positions all values are equal then, and no change of
    where attention looks can change what it finds.
    """
    prepare = cls.prepare_inputs_for_testing

    def inputs(self: Any) -> dict[str, torch.Tensor]:
        return {
            name: 3 + torch.arange(tensor.numel()).view_as(tensor) if name.endswith("input_ids") else tensor
            for name, tensor in prepare(self).items()
        }

    return inputs


def _name(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]
