"""Writers of small data files, and the same example in every form."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet


ALPACA = {"instruction": "Name a colour.", "input": "It is the sky's.", "output": "Blue."}
MESSAGES = {
    "messages": [
        {"role": "user", "content": "Name a colour.\n\nIt is the sky's."},
        {"role": "assistant", "content": "Blue."},
    ]
}
SHAREGPT = {
    "conversations": [
        {"from": "human", "value": "Name a colour.\n\nIt is the sky's."},
        {"from": "gpt", "value": "Blue."},
    ]
}
PROMPT_COMPLETION_LISTS = {"prompt": MESSAGES["messages"][:1], "completion": MESSAGES["messages"][1:]}
PAIR = {"prompt": "Sky: ", "completion": "blue"}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    """Write rows in the form the suffix says; returns the path as text."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), buffer)
        content = buffer.getvalue()
    elif name.endswith(".csv"):
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, rows[0])
        writer.writeheader()
        writer.writerows(rows)
        content = text.getvalue().encode()
    elif name.endswith(".jsonl"):
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    else:
        content = json.dumps(rows).encode()
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return str(path)
