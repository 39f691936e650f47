"""``excitor judge``: a language model compares the replies that ``excitor eval`` has written down."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from excitor.errors import ExcitorError


EXAMPLES = """\b
Examples:
  excitor judge runs/eval --endpoint http://127.0.0.1:8000/v1 --model Qwen/Qwen3-32B
  excitor judge runs/eval --endpoint https://api.openai.com/v1 --model gpt-4.1"""


def judge(
    run: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder that excitor eval wrote, with instructions.jsonl.")
    ],
    endpoint: Annotated[str, typer.Option(metavar="URL", help="OpenAI-compatible API; usually ends in /v1.")],
    model: Annotated[str, typer.Option(help="The judge, as the endpoint calls it.")],
    parameters: Annotated[
        str, typer.Option(metavar="JSON", help="Further fields of every request.")
    ] = '{"temperature": 0, "max_tokens": 512}',
    key_variable: Annotated[
        str, typer.Option(metavar="NAME", help="Environment variable with the API key; it may be unset.")
    ] = "OPENAI_API_KEY",
    workers: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 4,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds a request may take.")] = 120.0,
    retries: Annotated[int, typer.Option(min=0, help="Further attempts when the endpoint is busy or away.")] = 5,
) -> None:
    """Have a language model compare the replies of adapters with those of the base, in both orders.

    Answers are kept in DIR/judge.jsonl, and nothing in it is asked again: a broken-off run goes on where it stopped.
    The result is printed and written to DIR/judge.json.
    """
    from rich.console import Console
    from rich.progress import Progress

    from excitor.evaluate.endpoint import Endpoint
    from excitor.evaluate.judge import cost, table
    from excitor.evaluate.judge import judge as compare
    from excitor.evaluate.judge_files import read_replies

    items = read_replies(run / "instructions.jsonl")
    judged_by = Endpoint(endpoint, model, os.environ.get(key_variable), _fields(parameters), timeout, retries)
    console = Console()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        result = compare(items, judged_by, run / "judge.jsonl", progress, workers=workers)
    (run / "judge.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    console.print(table(result))
    console.print(cost(result))


def _fields(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        raise ExcitorError(f"--parameters {text!r} is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ExcitorError(f"--parameters must be an object such as '{{\"temperature\": 0}}', not {text!r}")
    return fields
