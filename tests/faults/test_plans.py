"""A run follows from its seed; what it finds is told, kept and counted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults import __main__ as program
from tests.faults import report
from tests.faults.campaign import Campaign, Result, plan
from tests.faults.kinds import FAULTS, MIXED
from tests.faults.kinds.base import Moment

NAMES = [f"device-{number}" for number in range(58)]
KINDS = [*FAULTS, MIXED]


def told(seed: str, number: int) -> tuple[Any, ...]:
    drawn = plan(seed, number, KINDS, NAMES)
    steps = [(step.posted.document, step.posted.is_bad, step.edge, step.pause) for step in drawn.steps]
    plain = (int, float, str, tuple, Moment)
    choices = [{name: it for name, it in vars(fault).items() if isinstance(it, plain)} for fault in drawn.faults]
    return [type(fault) for fault in drawn.faults], choices, steps


def test_the_same_seed_and_number_draw_the_same_run_and_others_draw_others() -> None:
    for number in range(3 * len(KINDS)):
        assert told("a", number) == told("a", number)
        assert told("a", number)[2] != told("b", number)[2]
        assert told("a", number)[2] != told("a", number + len(KINDS))[2]


def test_a_run_that_is_played_again_alone_is_the_same() -> None:
    for number, kind in enumerate(KINDS):
        alone, among = plan("a", number, [kind], NAMES), plan("a", number, KINDS, NAMES)
        assert [str(fault) for fault in alone.faults] == [str(fault) for fault in among.faults]
        assert [step.posted.document for step in alone.steps] == [step.posted.document for step in among.steps]


def test_mixed_faults_break_different_parts() -> None:
    seen = set()
    for number in range(300):
        faults = plan("a", number, [MIXED], NAMES).faults
        assert 2 <= len(faults) <= 3
        assert len({fault.part for fault in faults}) == len(faults) and all(fault.mixes for fault in faults)
        seen |= {fault.name for fault in faults}
    assert seen == {name for name, fault in FAULTS.items() if fault.mixes}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=lambda fault: fault.name)
def test_a_fault_says_what_it_promises_in_a_sentence(fault: Any) -> None:
    assert fault.promise.endswith(".") and "|" not in fault.promise and fault.part


def result(number: int, kind: str, **fields: Any) -> Result:
    return Result(number, f"s:{number}", [kind], [f"{kind} at once"], kind, **{"requests": 10, **fields})


def test_the_table_is_made_of_the_results_and_nothing_else_is_touched(tmp_path: Path) -> None:
    results, page = tmp_path / "results.jsonl", tmp_path / "page.md"
    campaign = Campaign("s", folder=tmp_path, results=results)
    campaign._note(result(0, "kill_bundle", recovery=1.0))
    campaign._note(result(1, "kill_bundle", recovery=3.0, violations=["a", "b"]))
    campaign._note(result(2, MIXED, recovery=0.25))
    campaign._note(result(3, "disk_full", skipped="no root"))
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    for _ in range(2):
        report.write(page, report.read(results))
    text = page.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\n") and text.endswith(f"{report.END}\nafter\n")
    assert "old" not in text and "disk_full" not in text
    assert "3 runs with 30 requests, 1 of them with a violation. Seed: `s`." in text
    promise = FAULTS["kill_bundle"].promise
    assert f"| `kill_bundle` | 2 | {promise} | 2 | 2.0 s | 3.0 s |" in text
    assert f"| `{MIXED}` | 1 | {report.OF_MIXED} | 0 | 0.2 s | 0.2 s |" in text


def test_a_page_without_a_place_for_the_table_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing")
    with pytest.raises(ValueError, match="no place"):
        report.write(page, [])
    assert page.read_text() == "nothing"


def test_a_violation_is_told_with_how_to_repeat_it_and_fails_the_campaign(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found: list[list[str]] = []

    def play(self: Campaign, numbers: Iterator[int]) -> Iterator[Result]:
        for number in numbers:
            violations = ["done_once: twice"] if number == 7 else []
            recovery = 2.5 if violations else None
            yield result(number, "kill_bundle", violations=violations, recovery=recovery, kept=str(tmp_path))
            found.append(violations)

    monkeypatch.setattr(Campaign, "play", play)
    common = ["--seed", "s", "--folder", str(tmp_path), "--only", "mixed,kill_bundle"]
    assert program.main([*common, "--runs", "7"]) == 0
    assert program.main([*common, "--runs", "3", "--first", "5", "--step", "2"]) == 1
    assert len(found) == 10
    said = capsys.readouterr().out
    assert "runs: 7, requests: 70, runs with violations: 0, seed: s, longest recovery: -\n" in said
    assert said.endswith("runs: 3, requests: 30, runs with violations: 1, seed: s, longest recovery: 2.5 s\n")
    assert "VIOLATION done_once: twice" in said
    assert f"logs in {tmp_path}; again: python -m tests.faults --seed s --run 7 --only kill_bundle" in said
    with pytest.raises(SystemExit):
        program.main(["--only", "meteorite"])


def test_results_are_lines_of_json(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    Campaign("s", folder=tmp_path, results=results)._note(result(4, "flood", recovery=0.5))
    [line] = results.read_text().splitlines()
    assert json.loads(line)["number"] == 4 and json.loads(line)["recovery"] == 0.5
