"""Tests of compiled code need a compiler."""

import os
import shutil
import sysconfig

import pytest


PLACES = os.pathsep.join([os.environ.get("PATH", ""), sysconfig.get_path("scripts")])
needs_compiler = pytest.mark.skipif(
    not (shutil.which("ninja", path=PLACES) and (shutil.which("c++") or shutil.which("g++"))),
    reason="no C++ compiler or no ninja",
)
