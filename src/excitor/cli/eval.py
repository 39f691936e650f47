"""``excitor eval``: what fine-tuning did to a model, and whether to ship it."""

import typer

from excitor.cli.options import options_from
from excitor.evaluate.arguments import EvalArguments


EXAMPLES = """\b
Examples:
  excitor eval --adapter runs/first --retain wiki.txt --data held_out.jsonl
  excitor eval --adapter runs/first --adapter my-lora --retain wiki.txt --max-forgetting 0.02
  excitor eval --model my-merged-model --base meta-llama/Llama-3.2-1B --mmlu data/mmlu"""


@options_from(EvalArguments)
def eval(arguments: EvalArguments) -> None:
    """Measure what fine-tuning did to a model: forgotten, learned, benchmarks.

    Compares adapters of any PEFT method, or a tuned model, with their base. With a --max or --min option it ends in a
    verdict: exit code 0 is ship, 2 is not (or an error).
    """
    from datasets import disable_progress_bars
    from transformers.utils import logging

    from excitor.evaluate.run import evaluate

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    verdict = evaluate(arguments)["verdict"]
    if verdict and not verdict["ship"]:
        raise typer.Exit(2)
