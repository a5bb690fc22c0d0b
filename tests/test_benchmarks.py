"""The harness of the benchmarks; the benchmarks themselves are run by hand."""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks._harness")


def case(harness: Any, **changes: Any) -> Any:
    ours, limit = iter([30.0, 10.0, 20.0]), iter([40.0, 40.0, 10.0])
    options = {
        "name": "a",
        "ours": lambda: next(ours),
        "limit": lambda: next(limit),
        "unit": "updates/s",
    }
    return harness.Case(**options | changes)


def test_a_row_holds_medians_and_their_ratio(harness: Any) -> None:
    row = harness.measured(case(harness, target="ratio >= 0.8"), 3)
    assert (row["ours"], row["limit"], row["ratio"], row["met"]) == (20.0, 40.0, 0.5, False)
    assert row["ours_range"] == [10.0, 30.0]
    assert row["limit_range"] == [10.0, 40.0]


def test_ours_and_the_limit_are_measured_in_turn(harness: Any) -> None:
    order: list[str] = []
    harness.measured(
        harness.Case("a", lambda: order.append("o") or 1, lambda: order.append("l") or 1, "s"), 2
    )
    assert order == ["o", "l", "o", "l"]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("ratio >= 0.5", True),
        ("ratio >= 0.51", False),
        ("ratio <= 0.5", True),
        ("ours >= 20", True),
        ("ours <= 19", False),
        ("", None),
    ],
)
def test_targets(harness: Any, target: str, expected: bool | None) -> None:
    assert harness.measured(case(harness, target=target), 3)["met"] is expected


def test_a_run_ends_with_json_that_the_next_one_compares_with(
    harness: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    module = ModuleType("benchmarks.made_up")
    module.__dict__["cases"] = lambda options: [case(harness, name="one"), case(harness, name="b")]
    old = tmp_path / "old.json"
    plot = tmp_path / "plot.png"
    flags = ["x", "--json", "--repeats", "3", "--only", "one"]
    monkeypatch.setattr(sys, "argv", flags)
    harness.main("made_up", module)
    old.write_text(capsys.readouterr().out)
    monkeypatch.setattr(sys, "argv", [*flags, "--compare", str(old), "--plot", str(plot)])
    harness.main("made_up", module)
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["case"] for row in result["rows"]] == ["one"]
    assert result["compared"][0]["ratio"] == [0.5, 0.5]
    assert result["machine"]["cores"] >= 1
    assert plot.stat().st_size > 1000


def test_each_benchmark_is_listed() -> None:
    found = {m.name for m in pkgutil.iter_modules([str(ROOT / "benchmarks")])}
    text = (ROOT / "benchmarks" / "README.md").read_text()
    listed = {line.split("`")[1] for line in text.splitlines() if line.startswith("| `")}
    assert listed == {name for name in found if not name.startswith("_")}
