"""Makes Excitor a PEFT method. The only file that knows how PEFT keeps its list of methods.

PEFT looks methods up by members of ``peft.PeftType``, an enum closed to third parties, and has no entry point for
plug-ins. :func:`register` adds the member and then goes through PEFT's own ``register_peft_method``, so that every
check PEFT makes for its own methods is made for this one. What else the method stands on are hooks of PEFT's base
classes; they are checked here, on import, because a hook that PEFT has renamed would just never be called again.
"""

import inspect
import re
from collections.abc import Iterator
from importlib.metadata import requires, version
from typing import Any

from .errors import UnsupportedPeftError


def _unsupported(reason: object) -> UnsupportedPeftError:
    supported = next(need for need in requires("excitor") or () if re.match(r"peft\b", need))
    return UnsupportedPeftError(
        f"excitor could not register its method with peft {version('peft')}: {reason}. "
        f"This version of excitor supports {supported}: pip install '{supported}'."
    )


try:
    from peft import PeftConfig, PeftModel, PeftType
    from peft.mapping import (
        PEFT_TYPE_TO_CONFIG_MAPPING,
        PEFT_TYPE_TO_PREFIX_MAPPING,
        PEFT_TYPE_TO_TUNER_MAPPING,
    )
    from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper, register_peft_method
    from peft.utils.other import get_pattern_key
except ImportError as error:
    raise _unsupported(error) from error


__all__ = ["AuxiliaryTrainingWrapper", "get_pattern_key", "register"]

NAME = "EXCITOR"

# What the method overrides, calls, or is called through.
HOOKS: dict[type, tuple[str, ...]] = {
    BaseTuner: (
        "_prepare_adapter_config",
        "_check_target_module_exists",
        "_create_and_replace",
        "_cast_adapter_dtype",
        "_replace_module",
        "_post_injection_hook",
        "_check_merge_allowed",
        "_get_adapter_state_dict",
        "_remap_adapter_state_dict_for_load",
        "inject_adapter",
        "set_adapter",
        "delete_adapter",
        "get_model_config",
    ),
    BaseTunerLayer: ("get_base_layer", "set_adapter", "_move_adapter_to_device_of_base_layer", "merge"),
    PeftModel: ("_enable_peft_forward_hooks",),
}


def register(config_cls: type[PeftConfig], model_cls: type[BaseTuner], name: str = NAME) -> None:
    """Register a method with PEFT, as ``PeftType.EXCITOR`` or under another name; a second time changes nothing.

    Args:
        config_cls: The configuration class, found by PEFT through ``"peft_type": name`` in adapter_config.json.
        model_cls: The tuner; its ``prefix`` starts the name of every adapter parameter.
        name: Of the method.

    Raises:
        UnsupportedPeftError: PEFT is not what this version of excitor knows. It is an ImportError too.
    """
    if name in PEFT_TYPE_TO_TUNER_MAPPING:
        return
    faults = [*_faults(BaseTuner, model_cls), *_faults(BaseTunerLayer, model_cls.tuner_layer_cls), *_faults(PeftModel)]
    if faults:
        raise _unsupported("; ".join(faults))
    try:
        _add_enum_member(name)
        register_peft_method(name=name.lower(), config_cls=config_cls, model_cls=model_cls, prefix=model_cls.prefix)
    except Exception as error:
        raise _unsupported(error) from error
    tables: list[Any] = [PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING]
    if [table.get(name) for table in tables] != [config_cls, model_cls, model_cls.prefix]:
        raise _unsupported("register_peft_method left the method out of PEFT's tables")


def _faults(base: type, ours: type | None = None) -> Iterator[str]:
    """A clause for every hook that a base class of PEFT's lacks, or calls otherwise than ours can be called."""
    for name in HOOKS[base]:
        hook = getattr(base, name, None)
        if hook is None:
            yield f"{base.__name__} has no {name}"
        elif ours is not None:
            given = dict.fromkeys(_parameters(hook))
            if isinstance(inspect.getattr_static(base, name), staticmethod) and inspect.isfunction(
                vars(ours).get(name)
            ):
                given["self"] = None  # a method may stand in for a static one
            try:
                inspect.signature(getattr(ours, name)).bind(**given)
            except TypeError as error:
                yield f"{base.__name__}.{name} is called otherwise ({error})"


def _parameters(function: object) -> Iterator[str]:
    """Names of the arguments of a function, without those it takes in any number."""
    for parameter in inspect.signature(function).parameters.values():  # pyright: ignore[reportArgumentType]
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            yield parameter.name


def _add_enum_member(name: str) -> None:
    if name in PeftType.__members__:  # an import that failed further on
        return
    member = str.__new__(PeftType, name)
    member._name_ = name
    member._value_ = name
    setattr(member, "_sort_order_", len(PeftType))  # noqa: B010  (not in the stubs)
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    type.__setattr__(PeftType, name, member)  # attribute access, whichever way this Python's enum implements it
    if PeftType(name) is not member or getattr(PeftType, name) is not member or member not in list(PeftType):
        raise TypeError("peft.PeftType did not accept a new member")
