"""``excitor score``: scores for a file of somebody's predictions; no model is needed."""

import json
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from excitor.arguments import check_writable
from excitor.errors import ExcitorError


EXAMPLES = """\b
Examples:
  excitor score captions results.json --references captions_val2014.json
  excitor score scienceqa predictions.json --problems problems.json --split test"""
Out = Annotated[
    Path | None, typer.Option(metavar="FILE.json", help="Write the scores here, and one line an item to FILE.jsonl.")
]

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, epilog=EXAMPLES)


@app.callback()
def score() -> None:
    """Score a file of captions or of answers to ScienceQA."""


@app.command(epilog=EXAMPLES)
def captions(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS.json", help="One caption an image; any JSON may be gzipped (.json.gz).")
    ],
    references: Annotated[Path, typer.Option(metavar="ANNOTATIONS.json", help="The references, in COCO's layout.")],
    subset: Annotated[
        bool, typer.Option("--subset", help="Score the captioned images alone, if ANNOTATIONS has more of them.")
    ] = False,
    java: Annotated[
        bool, typer.Option("--java", help="Run METEOR and SPICE too: needs pycocoevalcap and Java, takes minutes.")
    ] = False,
    out: Out = None,
) -> None:
    """Score image captions: BLEU, ROUGE-L and CIDEr-D.

    The numbers are those of coco-caption; Java is not needed. CIDEr takes its document frequencies from the scored
    images.
    """
    from rich.console import Console

    from excitor.evaluate.captions.files import read_pair
    from excitor.evaluate.captions.scores import score_captions, table

    _check_out(out)
    candidates, truths = read_pair(results, references, subset=subset)
    report = score_captions(candidates, truths, java=java)
    Console().print(table(report))
    if out:
        items = ({"id": image, **scores} for image, scores in report["per_image"].items())
        summary = {key: value for key, value in report.items() if key != "per_image"}
        _write(out, "images", summary, items, {"results": results, "references": references})


@app.command(epilog=EXAMPLES)
def scienceqa(
    predictions: Annotated[
        Path,
        typer.Argument(
            metavar="PRED.json", help='{id: text}, {"outputs": {id: text}} or {"results": {id: index}}; or gzipped.'
        ),
    ],
    problems: Annotated[Path, typer.Option(metavar="PROBLEMS.json", help="The official problems.json, or gzipped.")],
    split: Annotated[str | None, typer.Option(help="Score this split alone; all problems if not given.")] = None,
    splits: Annotated[
        Path | None, typer.Option(metavar="PID_SPLITS.json", help="Splits to use instead of the problems' own.")
    ] = None,
    out: Out = None,
) -> None:
    """Score answers to ScienceQA: the table by subject, context and grade.

    An answer is a letter, "B. ..." or "The answer is B."; one that names no choice has failed and counts as wrong.
    """
    from rich.console import Console

    from excitor.evaluate.scienceqa import score, table
    from excitor.evaluate.scienceqa_files import read_predictions, read_problems, select_split

    _check_out(out)
    everything, answers = read_problems(problems), read_predictions(predictions)
    asked = select_split(everything, split, splits)
    outside = {pid for pid in answers if pid in everything and pid not in asked}
    try:
        report = score({pid: answer for pid, answer in answers.items() if pid not in outside}, asked)
    except ExcitorError as error:
        raise ExcitorError(f"{predictions}: {error}") from None
    console = Console()
    console.print(table(report))
    if outside:
        console.print(f"{len(outside)} predictions are for problems of other splits; they are not scored.")
    if out:
        items = (
            {"id": pid, "predicted": index, "answer": asked[pid]["answer"]}
            for pid, index in report["predictions"].items()
        )
        summary = {key: value for key, value in report.items() if key != "predictions"}
        summary |= {"split": split, "outside_split": len(outside)}
        files = {"predictions": predictions, "problems": problems} | ({"splits": splits} if splits else {})
        _write(out, "questions", summary, items, files)


def _check_out(out: Path | None) -> None:
    if out and out.suffix != ".json":
        raise ExcitorError(f"--out {out} must end in .json: the items are written beside it, in {out.stem}.jsonl.")
    if out and out.is_dir():
        raise ExcitorError(f"--out {out} is a folder; it must be a file.")
    if out:
        check_writable(out.parent, "the folder of --out")


def _write(
    out: Path, unit: str, summary: Mapping[str, Any], items: Iterable[object], files: Mapping[str, Path]
) -> None:
    from excitor.evaluate.bootstrap import COVERAGE, RESAMPLES
    from excitor.evaluate.json_file import fingerprint

    origin = {
        "excitor": version("excitor"),
        "inputs": {name: fingerprint(path) for name, path in files.items()},
        "bootstrap": {"over": unit, "resamples": RESAMPLES, "seed": 0, "coverage": COVERAGE},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(origin | dict(summary), indent=2) + "\n")
    out.with_suffix(".jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
