"""METEOR and SPICE, which exist in Java only, through the package pycocoevalcap."""

import importlib
import shutil
from collections.abc import Mapping, Sequence


JAVA_METRICS = {"METEOR": "pycocoevalcap.meteor.meteor:Meteor", "SPICE": "pycocoevalcap.spice.spice:Spice"}


def score_with_java(
    candidates: Mapping[str, Sequence[str]], references: Mapping[str, Sequence[Sequence[str]]]
) -> tuple[dict[str, float], dict[str, str]]:
    """METEOR and SPICE of tokenised captions: the scores of those that ran, and why the others did not."""
    results = {image: [" ".join(words)] for image, words in candidates.items()}
    truths = {image: [" ".join(words) for words in references[image]] for image in candidates}
    scores: dict[str, float] = {}
    not_run: dict[str, str] = {}
    for name, target in JAVA_METRICS.items():
        if shutil.which("java") is None:
            not_run[name] = "there is no java on the PATH"
            continue
        module, _, scorer = target.partition(":")
        try:
            score, _ = getattr(importlib.import_module(module), scorer)().compute_score(truths, results)
        except ImportError as error:
            not_run[name] = f"{error}; pip install 'excitor[captions]'"
        except Exception as error:  # whatever a Java process and its wrapper may do, the other scores stand
            not_run[name] = f"{type(error).__name__}: {error}"
        else:
            scores[name] = float(score)
    return scores, not_run
