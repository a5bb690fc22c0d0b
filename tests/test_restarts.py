"""A `zmqdist-master` is killed with SIGKILL under live workers and started again."""

from __future__ import annotations

import pytest

from benchmarks._chaos_master import KINDS, master_killed


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_master_is_killed_and_comes_back(kind: str) -> None:
    """No task fails, and each update is in the model once at the end."""
    seen = master_killed(1, kind)
    assert seen.exact, seen
    assert seen.facts["lives"] > 1
    if kind != "tiers":
        assert seen.applied == seen.expected


def test_the_witness_would_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Updates that are never sent are missing in the count."""
    monkeypatch.setitem(
        KINDS, "generator", (lambda model, items: iter([None for _ in items]), {}, ())
    )
    seen = master_killed(1, "generator")
    assert not seen.exact
    assert seen.lost == seen.expected
