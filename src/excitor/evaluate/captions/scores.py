"""All scores of a set of captions, as one report."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TypedDict

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from excitor.evaluate.captions.bleu import Bleu
from excitor.evaluate.captions.cider import Cider
from excitor.evaluate.captions.java import JAVA_METRICS, score_with_java
from excitor.evaluate.captions.rouge import rouge_l


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
        references: The words of the references of the same images. CIDEr's document frequencies are taken from them.
        java: Whether to run METEOR and SPICE too, which need the package pycocoevalcap and Java.
    """
    images = list(candidates)
    bleu, cider = Bleu(), Cider([references[image] for image in images])
    per_image = {}
    for image in images:
        candidate, of_image = candidates[image], references[image]
        bleu.add(candidate, of_image)
        per_image[image] = {"ROUGE_L": rouge_l(candidate, of_image), "CIDEr": cider.score(candidate, of_image)}

    scores = {f"Bleu_{n}": score for n, score in enumerate(bleu.scores(), 1)}
    scores |= {name: fmean(each[name] for each in per_image.values()) for name in ("ROUGE_L", "CIDEr")}
    not_run = dict.fromkeys(JAVA_METRICS, "ask for it with --java; it needs Java and takes minutes")
    if java:
        with_java, not_run = score_with_java(candidates, references)
        scores |= with_java
    return {
        "images": len(images),
        "references": sum(len(references[image]) for image in images),
        "scores": scores,
        "not_run": not_run,
        "bleu_counts": {
            "testlen": bleu.candidate_length,
            "reflen": bleu.reference_length,
            "guess": bleu.total,
            "correct": bleu.correct,
        },
        "per_image": per_image,
    }


def table(report: CaptionReport) -> Table:
    """A report for a terminal."""
    title = f"{report['images']:,} captions, {report['references']:,} references"
    view = Table("metric", title=title, title_justify="left", box=SIMPLE)
    view.add_column("score", justify="right")
    view.add_column("")
    counts = report["bleu_counts"]
    notes = {
        f"Bleu_{n}": f"{correct:,} of {guess:,} {n}-grams"
        for n, (correct, guess) in enumerate(zip(counts["correct"], counts["guess"], strict=True), 1)
    }
    for name, score in report["scores"].items():
        view.add_row(name, f"{score:.4f}", notes.get(name))
    for name, reason in report["not_run"].items():
        view.add_row(name, "not run", Text(reason))
    return view
