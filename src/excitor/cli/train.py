"""``excitor train``: from a data file to a measured adapter."""

from excitor.cli.options import options_from
from excitor.train.arguments import TrainArguments


EXAMPLES = """\b
Examples:
  excitor train --model meta-llama/Llama-3.2-1B --data tatsu-lab/alpaca#5000 --out runs/first
  excitor train --config runs/first/run.yaml --seed 1 --out runs/second"""


@options_from(TrainArguments)
def train(arguments: TrainArguments) -> None:
    """Train an adapter and measure it.

    Trains on instructions, then compares base and adapter: what was learned, and what was forgotten.
    """
    from excitor.train.run import train as run

    run(arguments)
