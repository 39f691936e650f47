"""The picture of the demonstration: what was shown and what was answered."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from excitor.mini.vision.lessons import Seen


def draw(tests: Mapping[str, tuple[Sequence[Seen], Sequence[str]]], path: Path) -> None:
    """Draw a line of pictures for each test, with question and reply under each; wrong replies are red.

    Args:
        tests: By title, rows and the replies to them.
        path: Of the PNG.
    """
    columns = max(len(rows) for rows, _ in tests.values())
    figure = Figure(figsize=(1.7 * columns, 2.6 * len(tests)), layout="constrained")
    parts = figure.subfigures(len(tests), 1, squeeze=False)[:, 0]
    for part, (title, (rows, replies)) in zip(parts, tests.items(), strict=True):
        part.suptitle(title)
        for axes, row, reply in zip(part.subplots(1, columns, squeeze=False)[0], rows, replies, strict=False):
            axes.imshow(row.picture, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            right = reply == row.asked.answer
            said = reply.replace(" left of ", "\nleft of ").replace(" above ", "\nabove ")
            axes.set_xlabel(f"{row.asked.question}\n{said}", fontsize=7, color="black" if right else "C3")
    figure.savefig(path, dpi=120)
