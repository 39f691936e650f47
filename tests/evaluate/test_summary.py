import io

from rich.console import Console

from excitor.evaluate.metric import Metric
from excitor.evaluate.plots import draw, draw_domains, draw_topics
from excitor.evaluate.summary import Page, summary_table, update_card


def document(domain: str, loss: float) -> dict:
    return {"id": f"{domain}:{loss}", "domain": domain, "tokens": 10, "loss": loss, "kl": 0.1, "flipped": 0.2}


TEXT = {
    "base": [document("a", 1.0), document("a", 2.0), document("b", 3.0)],
    "mine": [document("a", 1.5), document("a", 2.7), document("b", 2.9)],
}
QUESTIONS = {
    "base": [
        {"topic": "law", "correct": True},
        {"topic": "law", "correct": False},
        {"topic": "art", "correct": False},
    ],
    "mine": [{"topic": "law", "correct": True}, {"topic": "law", "correct": True}, {"topic": "art", "correct": False}],
}


def test_domains_show_changes_and_intervals():
    axes = draw_domains(TEXT).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    points = axes.containers[0].lines[0].get_xdata()
    assert [round(x, 6) for x in points] == [0.6, -0.1]


def test_topics_show_before_and_after():
    axes = draw_topics(QUESTIONS).axes[0]
    shown = {line.get_label(): list(line.get_xdata()) for line in axes.lines}
    assert shown == {"mine": [0.0, 100.0], "base": [0.0, 50.0], "chance": [25.0, 25.0]}


def test_the_legend_is_not_among_the_measurements():
    for figure in (draw_domains(TEXT), draw_topics(QUESTIONS)):
        figure.draw_without_rendering()
        assert figure.legends[0].get_window_extent().y0 >= figure.axes[0].get_window_extent().y1


def test_only_comparisons_that_have_a_picture_are_drawn(tmp_path):
    assert draw("forgetting", TEXT, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert not draw("forgetting", {"base": TEXT["base"]}, tmp_path / "b.png")
    assert not draw("learned", TEXT, tmp_path / "b.png")


def test_summary_leaves_a_gap_where_the_base_has_no_change():
    metrics = {
        "forgetting": {
            "base": {"loss": Metric(2.0, 1.5, 2.5, False, "nats/token")},
            "mine": {
                "loss": Metric(2.1, 1.6, 2.6, False, "nats/token"),
                "loss change": Metric(0.1, 0.05, 0.15, False, "nats/token"),
            },
        }
    }
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(summary_table(metrics))
    text = console.export_text()
    assert "2.0000 [1.5000, 2.5000]" in text
    assert text.count("+0.1000 [+0.0500, +0.1500]") == 1


def test_a_change_stands_below_what_has_changed():
    one = Metric(2.0, 1.5, 2.5, True)
    metrics = {"qa": {"base": {"f1": one, "match": one}, "mine": dict.fromkeys(("f1", "f1 change", "match"), one)}}
    assert list(summary_table(metrics).columns[1].cells) == ["f1", "f1 change", "match"]


def test_a_narrow_terminal_cuts_no_digits():
    console = Console(width=30, record=True, file=io.StringIO())
    console.print(Page("| text | change |\n| --- | ---: |\n| trees.txt | +0.1234 [+0.1000, +0.1500] |"))
    text = console.export_text()
    assert "…" not in text
    assert "+0.1500]" in text


def test_a_card_gets_its_section_once(tmp_path):
    card = tmp_path / "README.md"
    card.write_text("---\ntags: [x]\n---\n# Mine\n")
    update_card(card, "first\n")
    card.write_text(card.read_text() + "\nAfterword.\n")
    update_card(card, "second\n")
    text = card.read_text()
    assert text.startswith("---\ntags: [x]\n---\n# Mine\n")
    assert "first" not in text
    assert text.count("second") == 1
    assert text.endswith("\nAfterword.\n")
