"""docs/testing.md says what `zmqdist.testing` does."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from zmqdist.testing import faults
from zmqdist.testing.points import POINTS

PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()


def first_cells(head: str) -> list[str]:
    """Return the names in the first column of the table with this head."""
    table = PAGE.split(f"\n| {head} |", 1)[1].split("\n\n")[0]
    cells = [line.split(" | ")[0] for line in table.splitlines()[2:]]
    return [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]


def test_options() -> None:
    assert sorted(first_cells("option of `faults`")) == sorted(inspect.signature(faults).parameters)


def test_points() -> None:
    assert first_cells("point") == list(POINTS)
    for text in POINTS.values():
        assert f"| {text}" in PAGE


def test_the_example_runs() -> None:
    (example,) = re.findall(r"<!-- run -->\n```python\n(.*?)```", PAGE, re.S)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example, "docs/testing.md", "exec"), names)  # noqa: S102 - our own page
    assert names["injected"].counts["killed"] == 2
