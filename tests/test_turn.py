"""A worker's two threads take turns at its sockets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.support import DEADLINE_S, epoch, eventually, serving, work
from zmqdist import turn
from zmqdist.connection import Connection
from zmqdist.turn import Turn


class Standing:
    """A thread that stands in, and what it did."""

    def __init__(self) -> None:
        self.in_turn = threading.Event()
        self._woken = threading.Event()
        self.turns = 0
        self.turn = Turn(self._woken.set)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while self.turn.stand_in():
            self.turns += 1
            self.in_turn.set()
            while not self.turn.wanted:
                assert self._woken.wait(DEADLINE_S), "not woken"
                self._woken.clear()
            self.in_turn.clear()
            self.turn.give_back()

    def __enter__(self) -> Standing:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.turn.end()
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()


@pytest.fixture
def standing() -> Iterator[Standing]:
    with Standing() as made:
        yield made


def test_the_other_thread_stands_in_and_gives_back(standing: Standing) -> None:
    for _ in range(3):
        assert standing.in_turn.wait(DEADLINE_S)
        with standing.turn:
            assert not standing.in_turn.is_set()
            assert not standing.turn.wanted


def test_the_turn_goes_straight_back(standing: Standing) -> None:
    for times in range(1, 51):
        assert standing.in_turn.wait(DEADLINE_S)
        with standing.turn:
            assert standing.turns == times  # nor taken again by whoever gave it back


def test_nobody_stands_in_while_steps_are_short(monkeypatch: Any) -> None:
    monkeypatch.setattr(turn, "AWAY_S", 1000.0)
    with Standing() as standing:
        for _ in range(1000):
            with standing.turn:
                pass
        assert standing.turns == 0


def test_the_end_comes_while_somebody_stands_in(standing: Standing) -> None:
    assert standing.in_turn.wait(DEADLINE_S)
    standing.turn.end()
    eventually(lambda: not standing.in_turn.is_set(), "the turn is given back")
    with standing.turn:
        assert standing.turn.wanted


def adding(model: Any, items: Any) -> Any:
    for _ in items:
        yield {"w": np.ones(3)}


@pytest.mark.parametrize("away_s", [0.0, 1000.0])
def test_either_thread_can_do_all_there_is(monkeypatch: Any, away_s: float) -> None:
    monkeypatch.setattr(turn, "AWAY_S", away_s)
    model = {"w": np.zeros(3)}
    with serving(model) as master, epoch(master) as assignment:
        assert work(assignment, {"w": np.zeros(3)}, adding, range(50)).complete
    np.testing.assert_array_equal(model["w"], [50.0] * 3)


def test_versions_come_in_during_a_long_step() -> None:
    with serving({"w": np.zeros(3)}) as master, epoch(master, 2) as assignment:
        with Connection(assignment, 0, 0, "test") as link:

            def long_step(model: Any, items: Any) -> Any:
                yield {"w": np.ones(3)}
                eventually(lambda: link._replica.version >= 1, "the other one holds the version")

            assert work(assignment, {"w": np.zeros(3)}, long_step, [1], 1).complete


def test_what_breaks_in_the_other_thread_is_told_to_the_task(monkeypatch: Any) -> None:
    with serving({"w": np.zeros(3)}) as master, epoch(master) as assignment:
        with Connection(assignment, 0, 0, "test") as link:
            with link._turn:
                monkeypatch.setattr(link._state, "tick", lambda now: 1 / 0)
            eventually(lambda: link._error, "an error")
            with pytest.raises(ZeroDivisionError):
                link.take_requeued()
