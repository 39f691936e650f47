"""Writes the table of docs/architectures.md from families.py and transformers' configuration classes.

Usage: python scripts/architectures.py
"""

from pathlib import Path

import transformers
from transformers import CONFIG_MAPPING, PretrainedConfig

from excitor.families import FAMILIES, Family


PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"
BEGIN, END = "<!-- table: python scripts/architectures.py -->\n", "<!-- end of table -->\n"
HEADER = ["architecture", "`model_type`", "the term enters", "its layout", "key norm", "key heads", "transformers"]
LAYOUTS = {
    "key": "key alone",
    "concatenated": "queries, keys, values",
    "interleaved": "by key head: queries, key, value",
    "latent": "by head: unrotated key, value",
}
NORM_OPTIONS = ("use_qk_norm", "qk_layernorm")
GROUP_FIELDS = ("num_key_value_heads", "num_kv_heads")


def table(version: str) -> str:
    """The table, for what was tested with a version of transformers."""
    rows = [HEADER, ["---"] * len(HEADER)]
    rows += [_row(name, family, version) for name, family in sorted(FAMILIES.items(), key=_title)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _title(item: tuple[str, Family]) -> str:
    return item[1].title.lower()


def _row(name: str, family: Family, version: str) -> list[str]:
    config = CONFIG_MAPPING[name]()
    norm = family.key_norm
    where = f"in the output of `{family.key_projection}`"
    if norm is not None:
        where = f"behind `{norm.name}`"
        if norm.shape == "rotated":
            where += ", rotated"
    return [
        family.title + "".join(f" (without `{option}`)" for option in family.inexact),
        f"`{name}`",
        where,
        LAYOUTS[family.layout],
        _norm(family, config),
        _key_heads(family, config),
        version,
    ]


def _norm(family: Family, config: PretrainedConfig) -> str:
    if family.key_norm is None:
        return "no"
    options = [option for option in NORM_OPTIONS if hasattr(config, option)]
    return f"with `{options[0]}`" if options else "yes"


def _key_heads(family: Family, config: PretrainedConfig) -> str:
    fields = [field for field in GROUP_FIELDS if hasattr(config, field)]
    if family.layout == "latent" or not fields:
        return "as query heads"
    return f"grouped, `{fields[0]}`"


def write() -> None:
    """Put the table into the page."""
    before, rest = PAGE.read_text().split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(before + BEGIN + table(transformers.__version__) + END + after)


if __name__ == "__main__":
    write()
