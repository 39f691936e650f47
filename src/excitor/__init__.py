"""LLaMA-Excitor (arXiv 2404.00913) as a PEFT method; importing this package registers it with PEFT.

Example::

    import excitor, peft
    model = peft.get_peft_model(base, excitor.ExcitorConfig())
"""

import sys

from .errors import ExcitorError, UnsupportedPeftError


__version__ = "0.1.0"

# The command line answers --help before torch is imported: see excitor_cli.py.
if "excitor_cli" not in sys.modules:
    from . import registration  # isort: skip  # noqa: F401  (looks at PEFT before anything is built on it)
    from .model import ExcitorModel  # isort: skip  (registers the method)
    from .bottleneck import BottleneckConfig
    from .checkpoint import load_adapter, save_adapter
    from .combined import CombinedConfig
    from .config import ExcitorConfig
    from .hotswap import hotswap_adapter
    from .layer import ExcitorLayer
    from .strength import gates, set_strength

__all__ = [
    "BottleneckConfig",
    "CombinedConfig",
    "ExcitorConfig",
    "ExcitorError",
    "ExcitorLayer",
    "ExcitorModel",
    "UnsupportedPeftError",
    "gates",
    "hotswap_adapter",
    "load_adapter",
    "save_adapter",
    "set_strength",
]
