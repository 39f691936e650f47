"""All scores of a set of captions, as one report."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from excitor.evaluate.bootstrap import RESAMPLES, percentiles, resample
from excitor.evaluate.captions.bleu import bleu, bleu_counts
from excitor.evaluate.captions.cider import Cider
from excitor.evaluate.captions.java import JAVA_METRICS, score_with_java
from excitor.evaluate.captions.ngrams import ORDERS
from excitor.evaluate.captions.rouge import rouge_l


NAMES = (*(f"Bleu_{n}" for n in range(1, ORDERS + 1)), "ROUGE_L", "CIDEr")


class BleuCounts(TypedDict):
    """What BLEU is made of, under the names that coco-caption prints."""

    testlen: int
    reflen: int
    guess: list[int]
    correct: list[int]


class CaptionReport(TypedDict):
    """The scores of a set of captions."""

    images: int
    references: int
    scores: dict[str, float]  # by the names of coco-caption; only those that were computed
    intervals: dict[str, tuple[float, float]]  # 95 % bootstrap over images; none of one image, METEOR and SPICE
    not_run: dict[str, str]  # the reason, by the same names
    bleu_counts: BleuCounts
    per_image: dict[str, dict[str, float]]  # ROUGE_L and CIDEr; their means are the scores


def score_captions(
    candidates: Mapping[str, Sequence[str]], references: Mapping[str, Sequence[Sequence[str]]], *, java: bool = False
) -> CaptionReport:
    """Scores one caption an image against its references, as coco-caption does.

    Args:
        candidates: The words of each image's caption, from :func:`~excitor.evaluate.captions.tokenizer.tokenize`; at
            least one word each.
        references: The words of the references of the same images. CIDEr's document frequencies are taken from them,
            and are those of all images in every bootstrap sample.
        java: Whether to run METEOR and SPICE too, which need the package pycocoevalcap and Java.
    """
    images = list(candidates)
    cider = Cider([references[image] for image in images])
    columns = np.array(
        [
            [
                1,
                *bleu_counts(candidates[image], references[image]),
                rouge_l(candidates[image], references[image]),
                cider.score(candidates[image], references[image]),
            ]
            for image in images
        ]
    )
    sums = columns.sum(axis=0)
    scores = dict(zip(NAMES, _scores(sums).tolist(), strict=True))
    drawn = _scores(resample(columns)) if len(images) > 1 else np.empty((0, 0))
    intervals = {name: percentiles(own) for name, own in zip(NAMES, drawn.T, strict=False)}
    not_run = dict.fromkeys(JAVA_METRICS, "ask for it with --java; it needs Java and takes minutes")
    if java:
        with_java, not_run = score_with_java(candidates, references)
        scores |= with_java
    return {
        "images": len(images),
        "references": sum(len(references[image]) for image in images),
        "scores": scores,
        "intervals": intervals,
        "not_run": not_run,
        "bleu_counts": {
            "testlen": int(sums[1]),
            "reflen": int(sums[2]),
            "guess": sums[3 : 3 + ORDERS].astype(int).tolist(),
            "correct": sums[3 + ORDERS : 3 + 2 * ORDERS].astype(int).tolist(),
        },
        "per_image": {
            image: {"ROUGE_L": own[-2], "CIDEr": own[-1]} for image, own in zip(images, columns.tolist(), strict=True)
        },
    }


def table(report: CaptionReport) -> Table:
    """A report for a terminal."""
    title = f"{report['images']:,} captions, {report['references']:,} references"
    note = f"Intervals: bootstrap, {RESAMPLES:,} resamples of the images, seed 0; the document frequencies stay."
    view = Table("metric", title=title, title_justify="left", caption=note, caption_justify="left", box=SIMPLE)
    view.add_column("score", justify="right")
    view.add_column("95 % interval", justify="right")
    view.add_column("")
    counts = report["bleu_counts"]
    notes = {
        f"Bleu_{n}": f"{correct:,} of {guess:,} {n}-grams"
        for n, (correct, guess) in enumerate(zip(counts["correct"], counts["guess"], strict=True), 1)
    }
    for name, score in report["scores"].items():
        bounds = report["intervals"].get(name)
        view.add_row(name, f"{score:.4f}", f"{bounds[0]:.4f} to {bounds[1]:.4f}" if bounds else "", notes.get(name))
    for name, reason in report["not_run"].items():
        view.add_row(name, "not run", "", Text(reason))
    return view


def _scores(sums: np.ndarray) -> np.ndarray:
    """The scores by NAMES, ``[..., 6]``, of sums over images: their number, what BLEU needs, ROUGE-L, CIDEr."""
    images = sums[..., :1]
    return np.concatenate([bleu(sums[..., 1:-2]), sums[..., -2:] / images], axis=-1)
