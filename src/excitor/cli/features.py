"""``excitor features``: what a frozen vision encoder says of pictures, computed once and kept."""

from excitor.cli.options import options_from
from excitor.vision.arguments import FeatureArguments


EXAMPLES = """\b
Examples:
  excitor features --vision-model my-encoder --images pictures --out features
  excitor train --model my-model --vision-model my-encoder --data rows.json --features features --out runs/seeing"""


@options_from(FeatureArguments)
def features(arguments: FeatureArguments) -> None:
    """Compute the features of pictures once, so that training need not.

    An interrupted call goes on where it stopped, and pictures can be added later.
    """
    from transformers.utils import logging

    from excitor.vision.precompute import make_features

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    make_features(arguments)
