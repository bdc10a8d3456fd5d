"""The pictures, drawn from the results with matplotlib: small, and the same for the same results.

A bar or a point is the median of all rounds; the thin line over it goes from the lowest to the highest. The colours
are those of Okabe and Ito, which colour-blind people tell apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import nan
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks import cost as cost_part
from benchmarks import growth as growth_part
from benchmarks import latency as latency_part
from benchmarks import peers, profiling
from benchmarks.options import HERE
from benchmarks.results import Results, Row

IMAGES = HERE.parent / "docs" / "images"

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, YELLOW, GREY = "#56B4E9", "#CC79A7", "#F0E442", "#8A8A8A"

PART_COLOURS = (BLUE, SKY, GREEN, ORANGE, PURPLE, YELLOW, GREY)
"""Of the parts of a request's cost, in their order."""

WIDTH = 8.0
"""Inches of ``DOTS`` pixels: 1,200 pixels, which a page shows at some 800."""

DOTS = 150

STYLE: Any = {
    "figure.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is there everywhere
    "font.size": 10.5,
    "legend.frameon": False,
    "hatch.linewidth": 0.8,
}

PUBLISHED = {"the predecessor": 5.6, "a managed cloud service": 17.0}
"""Devices a second, as they stand in issue 6; not measured here."""

ERROR: Mapping[str, Any] = {"ecolor": "#333333", "elinewidth": 1.2, "capsize": 3}

THOUSANDS = FuncFormatter(lambda value, place: f"{value:,.0f}")


def growth(results: Results) -> Figure:
    """What a request costs, and how many there are a second, by the size of the job.

    :raises LookupError: when that was not measured.
    """
    sizes = _sizes(results.of(growth_part.PART))
    cpu = [results.row(growth_part.PART, growth_part.cpu_of(size)) for size in sizes]
    times = [results.row(growth_part.PART, growth_part.time_of(size)).values for size in sizes]
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _line(left, sizes, [row.values for row in cpu], BLUE, "µs of CPU a request")
    _line(right, sizes, [[1e6 / value for value in values] for values in times], GREEN, "requests a second")
    return figure


def comparison(results: Results) -> Figure:
    """How many requests a second puppetmaster gets done, and others.

    :raises LookupError: when that was not measured.
    """
    rows = [row for row in results.of(peers.PART) if row.unit == "/s" and row.values]
    ours = results.row(peers.PART, peers.PUPPETMASTER)
    rates: dict[str, Sequence[float]] = {row.what: row.values for row in rows}
    rates |= {f"{name} (published)": [rate] for name, rate in PUBLISHED.items()}
    names = sorted(rates, key=lambda name: _median(rates[name]))
    figure = Figure(figsize=(WIDTH, 0.8 + 0.36 * len(names)), layout="constrained")
    axes = figure.subplots()
    bars = _bars(axes, names, [rates[name] for name in names])
    for name, bar in zip(names, bars, strict=True):
        is_published = name.endswith("(published)")
        bar.set(facecolor="white" if is_published else BLUE if name == ours.what else SKY if _asks(name) else ORANGE)
        if is_published:
            bar.set(edgecolor=GREY, hatch="////")
    _label_bars(axes, [rates[name] for name in names], ",.0f")
    axes.set_title("Requests done, a second")
    axes.xaxis.set_major_formatter(THOUSANDS)
    _legend(axes, {"puppetmaster, durable": BLUE, "nothing is stored": SKY, "no device is asked": ORANGE},
            {"published, not measured here": GREY})
    return figure


def cost(results: Results) -> Figure:
    """What a request costs the bundle, by what is done for it, before and now.

    :raises LookupError: when that was not measured.
    """
    cases = {"now": cost_part.PART}
    if results.of(cost_part.BEFORE):
        cases["before"] = cost_part.BEFORE
    figure = Figure(figsize=(WIDTH, 1.5 + 0.6 * len(cases)), layout="constrained")
    axes = figure.subplots()
    for at, (name, case) in enumerate(cases.items()):
        start = 0.0
        for part, colour in zip(profiling.PARTS, PART_COLOURS, strict=True):
            value = _measured(results, case, part).median / cost_part.PER * 1e6
            axes.barh(name, value, left=start, color=colour, edgecolor="white", label=part if name == "now" else None)
            if value >= 4:
                axes.text(start + value / 2, at, f"{value:.0f}", ha="center", va="center", fontsize=10,
                          color="white" if colour in (BLUE, GREEN) else "black")
            start += value
        total = _measured(results, case, "all").median / cost_part.PER * 1e6
        axes.text(start, at, f"  {total:.0f} µs", va="center", fontweight="bold")
    axes.set_title("CPU of the bundle for a request, µs")
    axes.tick_params(left=False)
    axes.grid(axis="x")
    axes.margins(x=0.12)
    figure.legend(loc="outside lower center", ncols=len(profiling.PARTS), columnspacing=1.2, handlelength=1.2)
    return figure


def latency(results: Results) -> Figure:
    """How long a job of one request takes, idle and beside a large one.

    :raises LookupError: when that was not measured.
    """
    kinds = {"the broker's round trip": GREY, "over HTTP": BLUE, "over the bus": GREEN,
             "over HTTP under load": BLUE, "over the bus under load": GREEN}
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    axes = figure.subplots()
    names = list(kinds)[::-1]
    beside: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 9.5}
    for name in names:
        middle, high = (results.row(latency_part.PART, f"nodelay: {name}, {which}") for which in ("p50", "p99"))
        axes.plot([middle.median, high.median], [name, name], color=kinds[name], linewidth=3, alpha=0.45, zorder=1)
        for row, marker in ((middle, "o"), (high, "D")):
            axes.errorbar(row.median, name, xerr=_spread([row.values]), color=kinds[name], marker=marker, markersize=8,
                          **ERROR)
        axes.annotate(f"{middle.median:,.1f}", (min(middle.values), name), xytext=(-8, 0), ha="right", **beside)
        axes.annotate(f"{high.median:,.1f}", (max(high.values), name), xytext=(8, 0), ha="left", **beside)
    axes.set_xscale("log")
    axes.set_title("A job of one request, from the call to its end, ms")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    axes.grid(axis="x")
    axes.tick_params(left=False)
    axes.margins(x=0.12, y=0.12)
    marks = [Line2D([], [], color="#333333", marker=marker, linestyle="", label=label)
             for marker, label in (("o", "p50"), ("D", "p99"))]
    axes.legend(handles=marks, loc="lower left")
    return figure


def start(results: Results) -> Figure:
    """How long the bundle takes to start with what is stored.

    :raises LookupError: when that was not measured.
    """
    suffix = ": first answer over HTTP"
    rows = [row for row in results.of("start") if row.what.endswith(suffix) and row.values]
    if not rows:
        raise LookupError("start")
    figure = Figure(figsize=(WIDTH, 0.9 + 0.42 * len(rows)), layout="constrained")
    axes = figure.subplots()
    names = [row.what.removesuffix(suffix) for row in rows][::-1]
    values = [row.values for row in rows][::-1]
    for bar, row in zip(_bars(axes, names, values), rows[::-1], strict=True):
        bar.set(facecolor=GREY if row.baseline else BLUE)
    _label_bars(axes, values, ".1f", " s")
    axes.set_title("Start until the first answer, seconds")
    return figure


PICTURES: Mapping[str, Callable[[Results], Figure]] = {
    "growth": growth, "comparison": comparison, "cost": cost, "latency": latency, "start": start,
}


def draw(results: Results, *, docs: bool = False, quick: bool = False) -> list[Path]:
    """Draw what these results have the rows for, into benchmarks/; the files.

    :param docs: into docs/images too.
    :param quick: write into each that it is of a quick run.
    """
    folders = [HERE, *([IMAGES] if docs else [])]
    files = []
    for name, make in PICTURES.items():
        with mpl.rc_context(STYLE):
            try:
                figure = make(results)
            except LookupError:
                continue
            if quick:
                figure.text(0.99, 0.99, "of a quick run: says nothing", ha="right", va="top", color=RED)
            for folder in folders:
                files.append(folder / f"performance-{name}.png")
                save(figure, files[-1])
    return files


def save(figure: Figure, path: Path) -> None:
    """Write a picture without the time and the version that matplotlib would put into it."""
    figure.savefig(path, dpi=DOTS, metadata={"Software": None})


# Parts of pictures


def _sizes(rows: Iterable[Row]) -> list[int]:
    found = [re.fullmatch(re.escape(growth_part.cpu_of(0)[:-1]) + "([0-9,]+)", row.what) for row in rows]
    sizes = [int(match[1].replace(",", "")) for match in found if match]
    if not sizes:
        raise LookupError(growth_part.PART)
    return sizes


def _line(axes: Axes, sizes: Sequence[int], values: Sequence[Sequence[float]], colour: str, title: str) -> None:
    middles = [_median(each) for each in values]
    axes.errorbar(sizes, middles, yerr=_spread(values), color=colour, marker="o", markersize=7, linewidth=2, **ERROR)
    for size, middle, lowest in zip(sizes, middles, map(min, values), strict=True):
        axes.annotate(f"{middle:,.0f}", (size, lowest), xytext=(0, -17), textcoords="offset points", ha="center",
                      fontsize=9.5)
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(THOUSANDS)
    axes.set_ylim(0, max(max(each) for each in values) * 1.15)
    axes.margins(x=0.1)
    axes.grid(axis="y")
    axes.set_title(title)
    axes.set_xlabel("requests of the job")


def _bars(axes: Axes, names: Sequence[str], values: Sequence[Sequence[float]]) -> BarContainer:
    axes.grid(axis="x")
    axes.tick_params(left=False)
    axes.margins(x=0.14, y=0.02)
    return axes.barh(names, [_median(each) for each in values], height=0.68, xerr=_spread(values), error_kw=ERROR)


def _label_bars(axes: Axes, values: Sequence[Sequence[float]], form: str, unit: str = "") -> None:
    for number, each in enumerate(values):
        middle = _median(each)
        text = format(middle, form if middle >= 10 else ".1f") + unit
        axes.annotate(text, (max(each), number), xytext=(6, 0), textcoords="offset points", va="center")


def _legend(axes: Axes, filled: Mapping[str, str], hatched: Mapping[str, str]) -> None:
    patches = [Patch(facecolor=colour, label=name) for name, colour in filled.items()]
    patches += [Patch(facecolor="white", edgecolor=colour, hatch="////", label=name)
                for name, colour in hatched.items()]
    axes.legend(handles=patches, loc="lower right")


def _asks(name: str) -> bool:
    """Whether devices are asked, or it is only work that is handed out."""
    return name not in peers.CELERY


def _measured(results: Results, part: str, what: str) -> Row:
    row = results.row(part, what)
    if not row.values:
        raise LookupError(f"{part}: {what} could not be measured")
    return row


def _median(values: Sequence[float]) -> float:
    return Row(part="", what="", values=tuple(values)).median


def _spread(values: Sequence[Sequence[float]]) -> list[list[float]]:
    """From the median to the lowest and the highest, as matplotlib takes it; nothing where there is one value."""
    several = [each if len(each) > 1 else (nan,) for each in values]
    return [[_median(each) - min(each) for each in several], [max(each) - _median(each) for each in several]]
