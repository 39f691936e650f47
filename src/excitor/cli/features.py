"""``excitor features``: what a frozen vision encoder says of pictures, computed once and kept."""

from excitor.cli.options import options_from
from excitor.vision.arguments import FeatureArguments


EXAMPLES = """\\b
Examples:
  excitor features --vision-model openai/clip-vit-large-patch14 --data captions.json --images train2014 --out features
  excitor train --model my-model --vision-model openai/clip-vit-large-patch14 --data captions.json \\
    --images train2014 --features features --out runs/captions"""


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
