"""All runs of a comparison as one summary: what the report shows, and ``results.json`` holds."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from excitor.compare.equalise import TOLERANCES
from excitor.compare.measures import COSTS, MEASURES
from excitor.compare.statistics import holm, hypervolume, paired, rank_ranges
from excitor.compare.tuning import at_end
from excitor.trials import over_seeds


if TYPE_CHECKING:
    from excitor.compare.plan import Plan

Summary = dict[str, Any]
Row = dict[str, Any]


def summarise(
    plan: "Plan", tuned: dict[str, Any], tuning: Sequence[dict[str, Any]], results: Sequence[dict[str, Any]]
) -> Summary:
    """Means and intervals over seeds, differences, ranks, curves.

    Args:
        plan: What is compared.
        tuned: How learning rates were chosen, see :func:`excitor.compare.tuning.choose_rates`.
        tuning: The runs they were chosen by.
        results: The runs of the seeds; some may be missing, or have failed.

    Returns:
        The description of the suite; ``rows``, one for each method that has a finished run; ``ranks`` by ranked
        measure; ``differences`` by reference (the baseline and the subject), measure and method; ``rate_curves`` by
        method; and ``missing``, the methods without a finished run.
    """
    suite = plan.suite
    rows = [_row(plan, experiment.name, tuned, results) for experiment in plan.experiments]
    found = [row for row in rows if row["seeds"]]
    references = {name for name in (suite.baseline, suite.subject) if any(row["method"] == name for row in found)}
    return {
        "title": suite.title,
        "about": suite.about,
        "command": plan.command,
        "subject": suite.subject,
        "baseline": suite.baseline,
        "ranked": [name for name in suite.ranked if any(name in row["measures"] for row in found)],
        "reference_forgetting": suite.reference_forgetting,
        "seeds": suite.seeds,
        "tuning_seed": suite.tuning_seed,
        "strengths": suite.strengths,
        "training": suite.training,
        "match": {"by": suite.match, "target": suite.target, "tolerance": TOLERANCES.get(suite.match)},
        "environments": _environments(results),
        "rows": found,
        "missing": [row["method"] for row in rows if not row["seeds"]],
        "ranks": {name: _ranks(found, name) for name in suite.ranked},
        "differences": {name: _differences(found, suite.ranked, name) for name in sorted(references)},
        "rate_curves": _rate_curves(tuning),
        "tuning": tuned,
    }


def _row(plan: "Plan", name: str, tuned: dict[str, Any], results: Iterable[dict[str, Any]]) -> Row:
    own = [result for result in results if result["settings"]["experiment"] == name]
    good = sorted((one for one in own if one["status"] == "success"), key=lambda one: one["settings"]["seed"])
    experiment = next(one for one in plan.experiments if one.name == name)
    rate = tuned.get(name, {}).get("learning_rate")
    return {
        "method": name,
        "learning_rate": rate,
        "edge": rate is not None and at_end(tuned[name]),
        "seeds": [one["settings"]["seed"] for one in good],
        "failed": len(own) - len(good),
        "parameters": plan.sizes[name],
        "matched": experiment.matched,
        "spent": plan.spent.get(name),
        "measures": _over(good, MEASURES, lambda one: one["measures"]),
        "costs": _over(good, COSTS, lambda one: one["costs"]),
        "curve": _curve(good),
        "strength_curve": _strength_curve(good),
        "hypervolume": over_seeds([_volume(one, plan.suite.reference_forgetting) for one in good]) if good else None,
        "files": [f"runs/{_file(one)}" for one in own],
    }


def _over(
    runs: Sequence[dict[str, Any]], names: Iterable[str], part: Callable[[dict[str, Any]], Mapping[str, Any]]
) -> dict[str, Any]:
    """What all of these runs have, over seeds."""
    shared = [name for name in names if runs and all(part(run).get(name) is not None for run in runs)]
    return {name: over_seeds([part(run)[name] for run in runs]) for name in shared}


def _curve(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Points over steps."""
    return _points([run["curve"] for run in runs], "step")


def _strength_curve(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Points over strengths, 1 among them; none for a method without a strength."""
    own = [run.get("strength_curve") or [] for run in runs]
    if not all(own):
        return []
    return _points(
        [[*points, {"strength": 1.0} | run["measures"]] for points, run in zip(own, runs, strict=True)], "strength"
    )


def _points(curves: Sequence[Sequence[dict[str, Any]]], place: str) -> list[dict[str, Any]]:
    """Points of the curves of seeds, each over seeds; a place that one seed lacks has none."""
    points = [{point[place]: point for point in curve} for curve in curves]
    places = sorted(set.intersection(*(set(own) for own in points))) if points else []
    return [
        {place: at} | {name: over_seeds([own[at][name] for own in points]) for name in ("gain", "forgetting")}
        for at in places
    ]


def _volume(run: dict[str, Any], most: float) -> float:
    return hypervolume([(point["gain"], point["forgetting"]) for point in run["curve"]], most)


def _ranks(rows: Sequence[Row], name: str) -> dict[str, Any]:
    measures = {row["method"]: row["measures"][name] for row in rows if name in row["measures"]}
    return rank_ranges(measures, MEASURES[name].higher)


def _differences(rows: Sequence[Row], names: Sequence[str], reference: str) -> dict[str, dict[str, Any]]:
    """By measure and method; p-values are corrected over all of them."""
    base = next(row for row in rows if row["method"] == reference)
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        for row in rows:
            if row["method"] != reference and name in row["measures"] and name in base["measures"]:
                difference = paired(_by_seed(row, name), _by_seed(base, name))
                if difference is not None:
                    found[f"{name}|{row['method']}"] = difference
    corrected = holm({key: one["p"] for key, one in found.items()})
    result: dict[str, dict[str, Any]] = {name: {} for name in names}
    for key, one in found.items():
        name, method = key.split("|")
        result[name][method] = one | {"holm": corrected[key]}
    return result


def _by_seed(row: Row, name: str) -> dict[int, float]:
    return dict(zip(row["seeds"], row["measures"][name]["values"], strict=True))


def _rate_curves(tuning: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Where each learning rate ends, on the seed that is not reported."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for run in sorted(tuning, key=lambda run: run["settings"]["learning_rate"]):
        if run["curve"] and run["status"] == "success":
            point = {name: run["curve"][-1][name] for name in ("gain", "forgetting")}
            point |= {"learning_rate": run["settings"]["learning_rate"], "file": f"runs/{_file(run)}"}
            curves.setdefault(run["settings"]["experiment"], []).append(point)
    return curves


def _file(run: dict[str, Any]) -> str:
    from excitor.compare.run import file_name

    settings = run["settings"]
    return file_name(settings["experiment"], settings["learning_rate"], settings["seed"], settings["tuning"])


def _environments(results: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The machines and versions that made the runs, each once."""
    found: list[dict[str, Any]] = []
    for result in results:
        environment = {key: result["environment"][key] for key in ("versions", "hardware")}
        if environment not in found:
            found.append(environment)
    return found
