"""What was measured: one row for each thing, with the values of all rounds."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

COMPARISONS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
"""What a target may begin with; ``>= 0.8``, ``< 10``. Any other target is shown, and nothing is said about it."""

_TARGET = re.compile(r"(>=|<=|>|<)\s*([0-9.,]+)")

LEAST_ROUNDS = 2
"""With fewer nothing is judged: a single value has no spread, and all that a quick run has is single values."""

NOTHING = "none"
"""Stands for what could not be measured."""

HEAD = ["| what | median | spread | rounds | target | |", "| --- | ---: | ---: | ---: | --- | --- |"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One thing that was measured, once in each round."""

    part: str
    """The module that measured it."""
    what: str
    values: tuple[float, ...]
    """One for each round; none when it could not be measured, and the note says why."""
    unit: str = ""
    form: str = ",.0f"
    """How a value is written, as :func:`format` takes it."""
    target: str = ""
    baseline: bool = False
    """Whether it is what others need, to compare with."""
    note: str = ""

    @property
    def median(self) -> float:
        """The value that the row stands for.

        :raises statistics.StatisticsError: when nothing was measured.
        """
        return median(self.values)

    @property
    def is_met(self) -> bool | None:
        """Whether the median reaches the target; none when the target is no comparison, or there are too few rounds."""
        found = _TARGET.fullmatch(self.target)
        if found is None or len(self.values) < LEAST_ROUNDS:
            return None
        return bool(COMPARISONS[found[1]](self.median, float(found[2].replace(",", ""))))

    @property
    def shown(self) -> str:
        """The median with its unit."""
        return f"{self.median:{self.form}} {self.unit}".rstrip() if self.values else NOTHING

    @property
    def spread(self) -> str:
        """The lowest and the highest value, where there are several."""
        if len(self.values) < 2:
            return ""
        return f"{min(self.values):{self.form}} to {max(self.values):{self.form}}"

    @property
    def verdict(self) -> str:
        """The target, and whether it is met."""
        if not self.target:
            return ""
        is_single = 0 < len(self.values) < LEAST_ROUNDS
        word = {True: ": met", False: ": **missed**", None: ": not judged, one round" if is_single else ""}[self.is_met]
        return f"{self.target} {self.unit}".rstrip() + word

    def line(self) -> str:
        """The row in Markdown."""
        what = f"*{self.what}*" if self.baseline else self.what
        return f"| {what} | {self.shown} | {self.spread} | {len(self.values)} | {self.verdict} | {self.note} |"


@dataclass
class Results:
    """The rows of all parts, in the order in which they were measured."""

    machine: str = ""
    """A sentence on where and when."""
    rows: list[Row] = field(default_factory=list)

    def add(
        self,
        part: str,
        what: str,
        values: Iterable[float],
        unit: str = "",
        *,
        form: str = ",.0f",
        target: str = "",
        baseline: bool = False,
        note: str = "",
    ) -> Row:
        """Add a row.

        :param values: one for each round; none when it could not be measured.
        :param target: a comparison with the median: ``>= 0.8``, ``< 10``.
        :raises ValueError: when there is a row of that name in the part: pictures find rows by their names.
        """
        if any((row.part, row.what) == (part, what) for row in self.rows):
            raise ValueError(f"{part} has a row {what!r}")
        row = Row(part=part, what=what, values=tuple(map(float, values)), unit=unit, form=form, target=target,
                  baseline=baseline, note=note)
        self.rows.append(row)
        return row

    @property
    def parts(self) -> list[str]:
        """The parts that have rows."""
        return list(dict.fromkeys(row.part for row in self.rows))

    def of(self, part: str) -> list[Row]:
        """The rows of a part."""
        return [row for row in self.rows if row.part == part]

    def row(self, part: str, what: str) -> Row:
        """The row of that name.

        :raises LookupError: when there is none.
        """
        for row in self.rows:
            if (row.part, row.what) == (part, what):
                return row
        raise LookupError(f"{part} has no row {what!r}")

    def table(self, *parts: str) -> str:
        """The rows of these parts, or of all, as a table in Markdown; baselines stand in italics."""
        wanted = parts or self.parts
        return "\n".join(HEAD + [row.line() for row in self.rows if row.part in wanted])

    def save(self, path: Path) -> None:
        """Write all values as JSON."""
        document = {"machine": self.machine, "rows": [asdict(row) for row in self.rows]}
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what :meth:`save` wrote."""
        document = json.loads(path.read_text(encoding="utf-8"))
        rows = [Row(**{**row, "values": tuple(row["values"])}) for row in document["rows"]]
        return cls(document["machine"], rows)
