"""Tests of compiled code need a compiler."""

import shutil

import pytest


needs_compiler = pytest.mark.skipif(
    not (shutil.which("ninja") and (shutil.which("c++") or shutil.which("g++"))), reason="no C++ compiler or no ninja"
)
