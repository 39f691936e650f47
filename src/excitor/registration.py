"""Makes Excitor a PEFT method. The only file that knows how PEFT keeps its list of methods.

PEFT looks methods up by members of ``peft.PeftType``, an enum closed to third parties, and has no entry point for
plug-ins. :func:`register` adds the member and then goes through PEFT's own ``register_peft_method``, so that every
check PEFT makes for its own methods is made for this one.
"""

from importlib.metadata import version

from peft import PeftConfig, PeftType
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import register_peft_method


NAME = "EXCITOR"


def register(config_cls: type[PeftConfig], model_cls: type[BaseTuner]) -> None:
    """Register the method with PEFT under ``PeftType.EXCITOR``.

    Args:
        config_cls: The configuration class, found by PEFT through ``"peft_type": "EXCITOR"`` in adapter_config.json.
        model_cls: The tuner; its ``prefix`` starts the name of every adapter parameter.

    Raises:
        ImportError: PEFT's registry is not what this version of excitor knows.
    """
    if NAME in PeftType.__members__:
        return
    try:
        _add_enum_member()
        register_peft_method(name=NAME.lower(), config_cls=config_cls, model_cls=model_cls, prefix=model_cls.prefix)
    except Exception as error:
        raise ImportError(
            f"excitor could not register its method with peft {version('peft')}: {error}. "
            "This version of excitor supports peft >=0.21.2,<0.22; install one of these."
        ) from error


def _add_enum_member() -> None:
    member = str.__new__(PeftType, NAME)
    member._name_ = NAME
    member._value_ = NAME
    setattr(member, "_sort_order_", len(PeftType))  # noqa: B010  (not in the stubs)
    PeftType._member_names_.append(NAME)
    PeftType._member_map_[NAME] = member
    PeftType._value2member_map_[NAME] = member
    type.__setattr__(PeftType, NAME, member)  # attribute access, whichever way this Python's enum implements it
    if PeftType(NAME) is not member or getattr(PeftType, NAME) is not member:
        raise TypeError("peft.PeftType did not accept a new member")
