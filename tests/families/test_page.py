"""The table in docs/architectures.md is what scripts/architectures.py makes of families.py."""

import re
import runpy
from pathlib import Path

import pytest
from transformers import CONFIG_MAPPING

from excitor.families import FAMILIES, LAYOUTS, NORM_SHAPES


ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not set(FAMILIES) <= set(CONFIG_MAPPING), reason="an older transformers without some of them")
def test_the_table_is_up_to_date() -> None:
    page = (ROOT / "docs" / "architectures.md").read_text()
    (version,) = set(re.findall(r"\| (\d+\.\d+\.\d+) \|$", page, re.MULTILINE))
    script = runpy.run_path(str(ROOT / "scripts" / "architectures.py"))
    assert script["BEGIN"] + script["table"](version) + script["END"] in page, "run python scripts/architectures.py"


def test_facts_are_of_the_known_kinds() -> None:
    for family in FAMILIES.values():
        assert family.layout in LAYOUTS
        assert family.key_norm is None or family.key_norm.shape in NORM_SHAPES


def test_the_readme_counts_them() -> None:
    assert f"{len(FAMILIES)} decoder architectures" in (ROOT / "README.md").read_text()
