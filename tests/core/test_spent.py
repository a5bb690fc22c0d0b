from __future__ import annotations

import pytest

from zmqdist.core.phases import Wait
from zmqdist.core.spent import Spent


def test_what_nobody_measured_is_the_rest() -> None:
    spent = Spent(10.0, iter([0.125, 0.0]).__next__)
    spent.waited(Wait.ACK, 1.0)
    spent.waited(Wait.ACK, 0.5)
    spent.waited(Wait.MODEL, 2.0)
    times = spent.take(20.0, 4.0, 0.25)
    assert times == {
        "wait_ack_s": 1.5,
        "wait_gate_s": 0.0,
        "wait_model_s": 2.0,
        "encode_s": 0.25,
        "other_s": pytest.approx(2.25),
        "travel_s": 0.125,
    }
    assert spent.take(21.0, 0.0, 0.0)["other_s"] == 1.0


def test_a_restart_forgets_what_was_before() -> None:
    spent = Spent(0.0, float)
    spent.waited(Wait.GATE, 3.0)
    spent.restart(5.0)
    assert sum(spent.take(6.0, 1.0, 0.0).values()) == 0.0


def test_the_rest_is_never_negative() -> None:
    assert Spent(0.0, float).take(1.0, 2.0, 0.0)["other_s"] == 0.0
