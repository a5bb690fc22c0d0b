"""What the master remembers of published versions is what was published."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zmqdist.models.base import parameters_of
from zmqdist.models.snapshot import Snapshot
from zmqdist.models.versions import KEPT_AT_LEAST, KEPT_PER_WORKER, Versions


class Bench:
    """A model, its snapshot with a memory, and copies of all versions to compare with."""

    def __init__(self) -> None:
        self.model = {"w": np.zeros((6, 2)), "b": np.zeros(3), "n": np.array(0.0)}
        self.parameters = parameters_of(self.model)
        self.memory = Versions()
        self.snapshot = Snapshot(self.parameters, versions=self.memory)
        self.kept: dict[int, dict[str, Any]] = {}
        self.version = 0
        self.publish()

    def change(self, name: str, rows: Any, by: float) -> None:
        self.version += 1
        self.model[name][rows] += by
        self.snapshot.touched({}, only=False)

    def publish(self, workers: int = 1) -> None:
        self.snapshot.take(self.version, workers)
        self.kept[self.version] = {name: array.copy() for name, array in self.model.items()}

    def check(self, base: int, rows: Any) -> None:
        moved = self.memory.since(base, self.parameters.arrays())
        assert moved is not None
        for name, live in self.model.items():
            np.testing.assert_array_equal(
                moved.moved(name, None), live - self.kept[base][name], strict=True
            )
        some = moved.moved("w", rows)
        np.testing.assert_array_equal(some, (self.model["w"] - self.kept[base]["w"])[rows])
        assert moved.moved("unknown", None) is None


changes = st.tuples(
    st.sampled_from(["w", "b", "n"]),
    st.sets(st.integers(0, 5), min_size=1),
    st.integers(1, 9),
    st.booleans(),
)


@settings(max_examples=100, deadline=None)
@given(story=st.lists(changes, max_size=14), rows=st.sets(st.integers(0, 5)))
def test_any_story(story: list[Any], rows: set[int]) -> None:
    bench = Bench()
    wanted = np.array(sorted(rows), dtype=np.int32)
    for name, places, by, publish in story:
        place: Any = ... if name == "n" else sorted(p % len(bench.model[name]) for p in places)
        bench.change(name, place, by)
        if publish:
            bench.publish()
        for base in bench.kept:
            bench.check(base, wanted)


def test_what_was_before_the_first_publication_is_not_known() -> None:
    memory, model = Versions(), {"w": np.zeros(3)}
    snapshot = Snapshot(parameters_of(model), versions=memory)
    snapshot.take(500)  # as after a restart
    assert memory.since(499, model) is None
    assert memory.since(500, model) is not None


def test_what_is_forgotten_is_not_made_up() -> None:
    bench = Bench()
    for _ in range(KEPT_AT_LEAST + 4):
        bench.change("b", 0, 1.0)
        bench.publish()
    assert bench.memory.since(3, bench.model) is None
    bench.check(4, [0])
    for _ in range(30):
        bench.change("b", 0, 1.0)
        bench.publish(workers=8)
    assert len(bench.memory._log) == min(KEPT_AT_LEAST + 30, KEPT_PER_WORKER * 8)


def test_one_step_is_what_one_version_changes() -> None:
    bench = Bench()
    assert bench.memory.step("b") == 0.0
    bench.change("b", slice(None), 3.0)
    bench.publish()
    first = bench.memory.step("b")
    assert 0 < first <= 3.0
    for _ in range(400):
        bench.change("b", slice(None), 2.0)
        bench.publish()
    assert bench.memory.step("b") == pytest.approx(2.0, rel=0.02)
    assert bench.memory.step("w") == 0.0


def test_steps_of_several_versions_count_as_independent() -> None:
    rng = np.random.default_rng(0)
    bench = Bench()
    for number in range(4000):
        bench.version += 1
        bench.model["b"] += rng.normal(size=3)
        bench.snapshot.touched({}, only=False)
        if number % 4 == 3:
            bench.publish()
    assert bench.memory.step("b") == pytest.approx(1.0, rel=0.15)
