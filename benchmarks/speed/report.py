"""Results as a table and a plot."""

from pathlib import Path
from typing import Any

import matplotlib


matplotlib.use("Agg")
from matplotlib import pyplot


def table(results: dict[str, Any]) -> str:
    """Markdown: a row for each method, speeds as ratios to the bare base with their quartiles."""
    tasks = results["tasks"]
    rows = [
        [
            *("", "trainable", *(f"{task}, tokens/s" for task in tasks)),
            *(f"training / {results['against']}", "kept for backward, bytes a token and layer"),
        ],
        ["---"] * (len(tasks) + 4),
    ]
    base = results["bytes_kept"]["base"]
    memory = results.get("peak_memory", {})
    if memory:
        rows[0].append("peak memory, GiB")
        rows[1].append("---")
    for name, trainable in results["trainable"].items():
        cells = [_cell(timed[name]) if name in timed else "" for timed in tasks.values()]
        above = (results["bytes_kept"][name] - base) / results["layers"]
        against = _quartiles(tasks["training"][name]["against"]) if name in tasks["training"] else ""
        rows.append([name, f"{trainable:,}", *cells, against, "0" if name == "base" else f"{above:+,.0f}"])
        if memory:
            rows[-1].append(f"{memory[name] / 2**30:.2f}" if memory[name] else "does not fit")
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(result: dict[str, Any]) -> str:
    return f"{result['tokens_per_second']:,.1f}: {_quartiles(result['speed'])}"


def _quartiles(ratio: dict[str, Any]) -> str:
    low, high = ratio["quartiles"]
    return f"{ratio['median']:.3f} ({low:.3f} to {high:.3f})"


def contexts_table(results: dict[str, Any]) -> str:
    """Markdown: milliseconds of one decoded token for each length of the context."""
    rows = ["| context | " + " | ".join(next(iter(results["contexts"].values()))) + " | ratio |"]
    rows.append("|" + " --- |" * (rows[0].count("|") - 1))
    for context, timed in results["contexts"].items():
        cells = " | ".join(f"{1000 / result['tokens_per_second']:.1f} ms" for result in timed.values())
        rows.append(f"| {context} | {cells} | {list(timed.values())[-1]['speed']['median']:.3f} |")
    return "\n".join(rows)


def plot(results: dict[str, Any], path: Path) -> None:
    """Speeds against the base, and one decoded token against the length of its context."""
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    tasks = results["tasks"]
    names = list(results["trainable"])
    height = 0.8 / len(tasks)
    for index, (task, timed) in enumerate(tasks.items()):
        at = [names.index(name) - index * height for name in timed]
        middles = [result["speed"]["median"] for result in timed.values()]
        spread = [
            [middle - result["speed"]["quartiles"][0] for middle, result in zip(middles, timed.values(), strict=True)],
            [result["speed"]["quartiles"][1] - middle for middle, result in zip(middles, timed.values(), strict=True)],
        ]
        axes[0].barh(at, middles, height, xerr=spread, label=task)
    axes[0].set_yticks([place - 0.4 + height / 2 for place in range(len(names))], names)
    axes[0].invert_yaxis()
    axes[0].axvline(1, color="black", linewidth=0.8)
    axes[0].set_xlabel("speed / bare base")
    axes[0].legend(fontsize="small")
    contexts = [int(context) for context in results["contexts"]]
    for name in next(iter(results["contexts"].values()), {}):
        axes[1].plot(
            contexts, [1000 * 1 / timed[name]["tokens_per_second"] for timed in results["contexts"].values()], "o-"
        )
    axes[1].set_xscale("log", base=2)
    axes[1].set_ylim(bottom=0)
    axes[1].set_xlabel("tokens in the cache")
    axes[1].set_ylabel("ms for one decoded token")
    axes[1].legend(list(next(iter(results["contexts"].values()), {})), fontsize="small")
    figure.savefig(path)
    pyplot.close(figure)
