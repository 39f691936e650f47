"""The files of the suite experiments/llama3-metamath, from the hub: MetaMathQA, GSM8K, and text of Wikipedia.

    python scripts/metamath_rows.py --out data/metamath
    excitor compare --suite llama3-metamath --files data/metamath

The prompt is that of PEFT's method comparison, and so is the limit of 1,300 characters on question and answer.
"""

import argparse
import json
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path

from datasets import load_dataset


PROMPT = "Question: {} Think step by step.\nAnswer:"
MOST_CHARACTERS = 1300
DOCUMENTS = 100


def math_rows(rows: Iterable[Mapping[str, str]], question: str, answer: str) -> list[dict[str, str]]:
    """Prompts with their answers, without those that are too long."""
    kept = [row for row in rows if len(f"{row[question]} {row[answer]}") <= MOST_CHARACTERS]
    return [{"prompt": PROMPT.format(row[question]), "completion": f" {row[answer]}"} for row in kept]


def write(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("data/metamath"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    write(out / "metamath.jsonl", math_rows(load_dataset("meta-math/MetaMathQA", split="train"), "query", "response"))
    write(out / "gsm8k.jsonl", math_rows(load_dataset("openai/gsm8k", "main", split="test"), "question", "answer"))
    pages = load_dataset("HuggingFaceFW/finewiki", "en", split="train", streaming=True)
    write(out / "wiki.jsonl", ({"text": page["text"]} for page in islice(pages, DOCUMENTS)))


if __name__ == "__main__":
    main()
