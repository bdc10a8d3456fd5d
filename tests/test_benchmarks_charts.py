"""The page on performance and its pictures are made from results, here made-up ones."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import cost, growth, latency, peers, profiling, report
from benchmarks.__main__ import PARTS
from benchmarks.options import Failed
from benchmarks.results import Results

SPREAD = (0.9, 1.0, 1.2)


def results_of(**values: float) -> Results:
    """Results with a row for each of the parts."""
    results = Results("a machine")
    for part, value in values.items():
        results.add(part, "a thing", [value] * 2, "s", target="< 10")
    return results


@pytest.fixture
def everything() -> Results:
    """Results with all rows that pictures are made of."""
    results = Results("a machine")

    def add(part: str, what: str, value: float, unit: str = "", *, baseline: bool = False) -> None:
        results.add(part, what, [value * factor for factor in SPREAD], unit, baseline=baseline)

    for part in ("all", *profiling.PARTS):
        add(cost.PART, part, 0.1)
    for size in growth.SIZES:
        add(growth.PART, growth.cpu_of(size), 100)
        add(growth.PART, growth.time_of(size), 200)
    ways = ("over HTTP", "over the bus")
    for trip in ("the broker's round trip", *ways, *(f"{way} under load" for way in ways)):
        for which in ("p50", "p99"):
            add(latency.PART, f"nodelay: {trip}, {which}", 5, "ms")
    for number, name in enumerate((peers.PUPPETMASTER, peers.ALONE, *peers.PLAIN, *peers.CELERY), 1):
        add(peers.PART, name, 1_000 * number, "/s", baseline=name != peers.PUPPETMASTER)
        add(peers.PART, f"puppetmaster to {name}", 1)
    add("start", "nothing stored: first answer over HTTP", 1, "s", baseline=True)
    return results


# The tables


@pytest.fixture
def page(tmp_path: Path) -> Path:
    page = tmp_path / "page.md"
    parts = ("targets", "cost", "start")
    blocks = [f"<!-- results:begin {part} -->\nold {part}\n<!-- results:end -->" for part in parts]
    page.write_text("\n".join(["Before.", *blocks, "After.", ""]))
    return page


def test_a_table_is_put_between_its_marks_and_the_rest_stays(page: Path) -> None:
    report.write_docs(results_of(cost=4), page)
    text = page.read_text()
    assert "| a thing | 4 s | 4 to 4 | 2 | < 10 s: met |" in text
    assert "old cost" not in text and "old start" in text and "old targets" in text
    assert text.startswith("Before.\n") and text.endswith("<!-- results:end -->\nAfter.\n")


def test_a_table_that_is_written_again_is_the_same(page: Path) -> None:
    report.write_docs(results_of(cost=4, start=5), page)
    once = page.read_text()
    report.write_docs(results_of(cost=4, start=5), page)
    assert page.read_text() == once


def test_a_part_without_marks_is_refused_and_the_page_stays(page: Path) -> None:
    before = page.read_text()
    with pytest.raises(Failed, match="no marks for memory"):
        report.write_docs(results_of(cost=4, memory=5), page)
    assert page.read_text() == before


def test_the_targets_of_a_whole_run_are_told_with_their_parts(page: Path) -> None:
    results = results_of(cost=4, start=50)
    results.add("start", "a thing without a target", [1])
    report.write_docs(results, page)
    targets = page.read_text().partition("begin targets")[2].partition("results:end")[0]
    assert "| start | a thing | 50 s | 50 to 50 | 2 | < 10 s: **missed** |" in targets
    assert "| cost | a thing | 4 s | 4 to 4 | 2 | < 10 s: met |" in targets
    assert "without" not in targets


def test_the_lists_of_functions_are_put_into_the_page_with_the_cost(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "now").write_text("  1.0%  run (loop.py)\n")
    monkeypatch.setattr(report, "PROFILES", {"profile": tmp_path / "now", "profile before": tmp_path / "missing"})
    page.write_text(page.read_text() + "<!-- results:begin profile -->\n<!-- results:end -->\n")
    report.write_docs(results_of(start=4), page)
    assert "run (loop.py)" not in page.read_text()
    report.write_docs(results_of(cost=4), page)
    assert "begin profile -->\n\n```\n  1.0%  run (loop.py)\n```\n\n<!-- results:end" in page.read_text()


def test_the_page_has_a_place_for_every_part() -> None:
    text = report.PAGE.read_text(encoding="utf-8")
    places = {*PARTS, "targets", cost.BEFORE, *report.PROFILES}
    assert set(re.findall("<!-- results:begin ([a-z ]+) -->", text)) == places


# The pictures; matplotlib is in requirements-bench.txt only


@pytest.fixture
def charts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    pytest.importorskip("matplotlib", reason="requirements-bench.txt is not installed")
    from benchmarks import charts

    monkeypatch.setattr(charts, "HERE", tmp_path)
    return charts


def test_all_pictures_are_drawn_small_and_the_same_again(charts, everything: Results) -> None:
    files = charts.draw(everything)
    assert [file.stem for file in files] == [f"performance-{name}" for name in charts.PICTURES]
    first = [file.read_bytes() for file in files]
    assert all(picture.startswith(b"\x89PNG") and len(picture) < 100_000 for picture in first)
    everything.rows = everything.of(growth.PART)
    assert [file.read_bytes() for file in charts.draw(everything)] == first[:1]


def test_what_was_not_measured_is_not_drawn(charts, everything: Results) -> None:
    everything.rows = everything.of(growth.PART)
    assert [file.name for file in charts.draw(everything)] == ["performance-growth.png"]


def test_every_picture_is_on_the_page(charts) -> None:
    text = report.PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"images/performance-(\w+)\.png", text)) == set(charts.PICTURES)


def test_bars_are_as_long_as_the_medians_and_sorted(charts, everything: Results) -> None:
    (axes,) = charts.comparison(everything).axes
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == sorted(widths)
    assert widths[-1] == 7_000 and set(charts.PUBLISHED.values()) < set(widths)
    assert set(range(1_000, 8_000, 1_000)) < set(widths), "ratios are no bars, and each rate is one"


def test_what_is_published_does_not_look_like_what_was_measured(charts, everything: Results) -> None:
    (axes,) = charts.comparison(everything).axes
    hatched = {bar.get_width() for bar in axes.patches if bar.get_hatch()}
    assert hatched == set(charts.PUBLISHED.values())


def test_a_line_shows_the_lowest_and_the_highest_round(charts, everything: Results) -> None:
    left, right = charts.growth(everything).axes
    (points,) = (container for container in left.containers)
    assert [round(y) for y in points[0].get_ydata()] == [100] * len(growth.SIZES)
    (lines,) = points[2]
    assert {tuple(round(y) for y in segment[:, 1]) for segment in lines.get_segments()} == {(90, 120)}
    assert [round(y) for y in right.containers[0][0].get_ydata()] == [5_000] * len(growth.SIZES)


def test_the_cost_before_is_drawn_beside_that_of_now(charts, everything: Results) -> None:
    for part in ("all", *profiling.PARTS):
        everything.add(cost.BEFORE, part, [0.2])
    (axes,) = charts.cost(everything).axes
    ends = sorted(round(bar.get_x() + bar.get_width()) for bar in axes.patches)
    assert ends[-1] == 20 * len(profiling.PARTS)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["now", "before"]


def test_a_picture_of_a_quick_run_says_so(charts, everything: Results) -> None:
    plain = [file.read_bytes() for file in charts.draw(everything)]
    quick = [file.read_bytes() for file in charts.draw(everything, quick=True)]
    assert len(quick) == len(plain) and not set(quick) & set(plain)


def test_a_cost_that_could_not_be_split_is_not_drawn(charts, everything: Results) -> None:
    everything.rows = [row for row in everything.rows if row.part != cost.PART]
    everything.add(cost.PART, "all", [1.0])
    for part in profiling.PARTS:
        everything.add(cost.PART, part, [], note="not measured: no py-spy")
    with pytest.raises(LookupError, match="could not be measured"):
        charts.cost(everything)
