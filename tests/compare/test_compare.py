import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from excitor.compare.compare import run_comparison
from excitor.compare.plan import make_plan
from excitor.errors import ExcitorError


QUIET = Console(quiet=True)


def test_a_comparison_chooses_rates_runs_seeds_and_reports(arguments, ran, tmp_path):
    run_comparison(arguments(), QUIET)
    assert len(ran) == 4 * 3 + 5 * 3  # methods x rates, then methods and the base x seeds
    tuned = json.loads((tmp_path / "out" / "tuning.json").read_text())
    assert {choice["learning_rate"] for choice in tuned.values()} == {0.01}  # 0.03 diverged
    assert tuned["lora/q-v"]["answer_loss"]["0.03"] is None
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("README.md", "costs.png", "curves.png", "index.html", "pareto.png", "plan.json", "results.json", "runs"),
        "tuning.json",
    ]


def test_it_goes_on_where_it_stopped_and_adds_what_is_new(arguments, ran, suite):
    run_comparison(arguments(), QUIET)
    ran.clear()
    run_comparison(arguments(seeds=5), QUIET)
    assert sorted(ran) == sorted(name for name in ran if name.endswith(("seed-3", "seed-4")))
    assert len(ran) == 5 * 2


def test_a_run_that_was_made_otherwise_is_refused_before_others_start(arguments, ran, tmp_path):
    run_comparison(arguments(), QUIET)
    ran.clear()
    report = (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(ExcitorError, match="was made with another train and another curve"):
        run_comparison(arguments(steps=65), QUIET)
    assert not ran
    run_comparison(arguments(report_only=True), QUIET)
    assert (tmp_path / "out" / "README.md").read_text() == report


def test_the_report_can_be_made_again_without_data_or_runs(arguments, ran, tmp_path):
    run_comparison(arguments(), QUIET)
    ran.clear()
    out = tmp_path / "out"
    before = {name: (out / name).read_text() for name in ("README.md", "results.json", "index.html")}
    for name in before:
        (out / name).unlink()
    next(out.glob("runs/lora--k--*seed-2.json")).unlink()
    run_comparison(arguments(report_only=True), QUIET)
    assert not ran
    assert "only 2 finished seeds" in (out / "README.md").read_text()
    ran.clear()
    run_comparison(arguments(), QUIET)
    assert len(ran) == 1
    assert {name: (out / name).read_text() for name in before} == before


def test_a_report_without_a_comparison_says_so(arguments):
    with pytest.raises(ExcitorError, match=r"holds no comparison \(no plan.json\)"):
        run_comparison(arguments(report_only=True), QUIET)


@pytest.mark.parametrize(
    "changes", [{"steps": 65}, {"baseline": "ia3/default"}, {"methods": ["lora/q-v"]}, {"seeds": 2}], ids=str
)
def test_a_report_refuses_options_that_it_could_not_follow(arguments, ran, changes, tmp_path):
    run_comparison(arguments(points=3), QUIET)
    run_comparison(arguments(report_only=True, points=3), QUIET)  # as it was run
    run_comparison(arguments(report_only=True, suite=None), QUIET)  # by its folder
    (name,) = changes
    with pytest.raises(ExcitorError, match=f"which --{name} .* would change: leave it out"):
        run_comparison(arguments(report_only=True, **changes), QUIET)
    with pytest.raises(ExcitorError, match="name --suite, or the folder of a comparison"):
        run_comparison(arguments(report_only=True, suite=None, out=None), QUIET)


def test_a_grid_that_is_being_widened_hides_no_seeds(arguments, ran, suite, tmp_path):
    given = arguments(suite=suite(rates=[0.001, 0.003, 0.01], widen=0))
    run_comparison(given, QUIET)
    page = (tmp_path / "out" / "README.md").read_text()
    run = next((tmp_path / "out" / "runs").glob("excitor--default--lr-0.01--seed-100--tuning.json"))
    better = json.loads(run.read_text())
    better["settings"]["learning_rate"], better["measures"]["answer_loss"] = 0.03, 0.0
    run.with_name(run.name.replace("0.01", "0.03")).write_text(json.dumps(better))
    plan = tmp_path / "out" / "plan.json"
    plan.write_text(plan.read_text().replace('"widen": 0', '"widen": 2'))
    run_comparison(arguments(report_only=True, suite=None), QUIET)
    assert (tmp_path / "out" / "README.md").read_text() == page


def test_where_excitor_does_not_win_the_first_lines_say_so(arguments, ran, tmp_path):
    run_comparison(arguments(), QUIET)
    page = (tmp_path / "out" / "README.md").read_text()
    first = page.split("![pareto]")[0]
    assert "**excitor/default does not win on any measure**" in first
    # All seeds differ by the same, which three of them cannot make significant.
    assert "unseen instructions answered: 0.7020, against lora/q-v 1.0020 (+0.3000, p = 1)" in first
    assert "lora/q-v pays for it in forgotten: rise of loss on text (+0.0390)." in first
    assert "ia3/default pays for it in unseen instructions answered (-0.3000)." in first
    assert "base/untouched" not in first.split("These have")[0].split("than these")[0]
    assert "the last one tried" not in first
    html = (tmp_path / "out" / "index.html").read_text()
    assert html.index("does not win") < html.index("<figure>")


def test_methods_that_seeds_do_not_separate_share_ranks(arguments, ran, tmp_path):
    run_comparison(arguments(), QUIET)
    page = (tmp_path / "out" / "README.md").read_text()
    assert "| lora/q-v | 1 |" in page
    assert re.search(r"\| excitor/default \| 2 to 3 \|.*not separable from lora/k \|", page)


def test_pages_are_self_contained_and_lead_to_the_runs(arguments, ran, tmp_path):
    run_comparison(arguments(), QUIET)
    out = tmp_path / "out"
    html = (out / "index.html").read_text()
    assert "src=" not in html
    assert "#010203" not in html
    links = re.findall(r'href="(runs/[^"]+)"', html)
    assert len(links) == 5 * 3
    assert all((out / link).exists() for link in links)
    assert "excitor compare --suite" in html


def test_a_dry_run_shows_sizes_and_runs_nothing(arguments, ran, tmp_path):
    console = Console(width=160, record=True, quiet=False, file=(tmp_path / "shown.txt").open("w"))
    plan = run_comparison(arguments(dry_run=True, match="params", target="excitor/default"), console)
    assert not ran
    assert not (tmp_path / "out").exists()
    text = console.export_text()
    assert "42,264" in text
    assert "0 of 3 to 5" in text
    sizes = [plan.sizes[one.name] for one in plan.experiments if one.matched]
    assert len(sizes) == 3
    assert all(abs(size - 42264) <= 0.02 * 42264 for size in sizes)


def test_a_dry_run_counts_what_would_not_run_again(arguments, ran, tmp_path):
    run_comparison(arguments(), QUIET)
    ran.clear()
    console = Console(width=160, record=True, file=(tmp_path / "shown.txt").open("w"))
    run_comparison(arguments(dry_run=True, seeds=2), console)
    assert not ran
    assert re.search(r"lora/q-v .* 3 of 3 to 5 +2 of 2", console.export_text())
    with pytest.raises(ExcitorError, match="was made with another train"):
        run_comparison(arguments(dry_run=True, steps=65), QUIET)


def test_strengths_give_a_curve_where_a_method_has_one(arguments, ran, tmp_path):
    run_comparison(arguments(strengths=["0.5", "2"]), QUIET)
    page = (tmp_path / "out" / "README.md").read_text()
    assert "| method | 0.5 | 1 | 2 |" in page
    assert "| lora/q-v | 0.4010 / 0.0160 | 0.8020 / 0.0660 | 1.6040 / 0.2560 |" in page
    assert "| ia3/default | none | none | none |" in page
    assert "over strengths" in (tmp_path / "out" / "index.html").read_text()
    with pytest.raises(ExcitorError, match="was made with another strengths"):
        run_comparison(arguments(strengths=["0.5"]), QUIET)


def test_runs_without_strengths_are_reported_as_before(arguments, ran, tmp_path):
    run_comparison(arguments(), QUIET)
    result = json.loads(next((tmp_path / "out" / "runs").glob("lora--k*seed-1.json")).read_text())
    assert "strengths" not in result["settings"]
    assert "## Strength" not in (tmp_path / "out" / "README.md").read_text()


def test_a_suite_on_the_fly_has_the_same_parts(tmp_path, base_dir, ran, arguments):
    (tmp_path / "data.jsonl").write_text('{"instruction": "Say a", "output": "a"}\n')
    (tmp_path / "text.txt").write_text("Once.\n")
    data, text = [str(tmp_path / "data.jsonl")], [str(tmp_path / "text.txt")]
    given = arguments(suite=None, model=base_dir, data=data, retain=text, methods=["lora/q-v,base", "ia3"])
    plan = make_plan(given)
    assert [one.name for one in plan.experiments] == ["lora/q-v", "base/untouched", "ia3/default"]
    assert plan.command == (
        f"excitor compare --out {tmp_path / 'out'} --methods lora/q-v,base --methods ia3 --model {base_dir} "
        f"--data {data[0]} --retain {text[0]}"
    )
    run_comparison(given, QUIET)
    assert "Once" not in Path(given.folder / "results.json").read_text()


def test_what_does_not_fit_the_base_is_named_before_runs(arguments, suite, ran, tmp_path):
    own = tmp_path / "suite" / "odd" / "one"
    folder = suite()
    own.mkdir(parents=True)
    (own / "adapter_config.json").write_text('{"peft_type": "LORA", "target_modules": ["nowhere"]}')
    with pytest.raises(ExcitorError, match=r"The odd/one of this comparison does not fit the base: .*Leave it out"):
        run_comparison(arguments(suite=folder), QUIET)
    assert not ran


@pytest.mark.parametrize("key", ["data", "test", "replay", "mmlu"])
def test_what_is_read_late_is_checked_before_the_first_run(key: str, tmp_path, base_dir, suite, arguments, ran):
    (tmp_path / "data.jsonl").write_text('{"instruction": "Say a", "output": "a"}\n')
    (tmp_path / "text.txt").write_text("Once.\n")
    gone = str(tmp_path / "gone")
    given = {"model": base_dir, "data": [str(tmp_path / "data.jsonl")], "retain": [str(tmp_path / "text.txt")]}
    comparison = arguments()
    suite(**(given | {key: gone if key == "mmlu" else [gone]}), ranked=["gain"])
    with pytest.raises(ExcitorError, match="gone"):
        run_comparison(comparison, QUIET)
    assert not ran
    assert not (tmp_path / "out").exists()
