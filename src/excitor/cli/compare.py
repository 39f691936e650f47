"""``excitor compare``: methods on the same data at equal budgets, over seeds, on learning and forgetting."""

from excitor.cli.options import options_from
from excitor.compare.arguments import CompareArguments


EXAMPLES = """\b
Examples:
  excitor compare --suite world --jobs 2
  excitor compare --suite world --report-only
  excitor compare --model my-model --data rows.jsonl --retain text.txt --methods excitor/default,lora,base"""


@options_from(CompareArguments)
def compare(arguments: CompareArguments) -> None:
    """Compare fine-tuning methods fairly: learned, forgotten and spent, over seeds.

    Every method sees the same data in the same order for the same steps, with a learning rate of its own chosen on a
    seed that is not reported. An interrupted comparison goes on where it stopped.
    """
    from excitor.compare.compare import run_comparison

    run_comparison(arguments)
