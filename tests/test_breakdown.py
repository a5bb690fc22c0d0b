from __future__ import annotations

from math import inf

import numpy as np
import pytest

from zmqdist import ZmqDist
from zmqdist.breakdown import Breakdown
from zmqdist.result import TrainResult

# 8 workers for 10 s, 1000 updates: 40 ms in the gradient, 4 ms at the master
GOOD = Breakdown(
    10.0,
    1000,
    50_000,
    compute_s=40.0,
    encode_s=2.0,
    wait_ack_s=30.0,
    other_s=8.0,
    travel_s=9.0,
    decode_s=1.0,
    descent_s=2.0,
    publish_s=0.5,
    busy_s=4.0,
)


@pytest.mark.parametrize(
    ("figure", "expected"),
    [
        ("worker_s", 80.0),
        ("workers", 8.0),
        ("utilization", 0.4),
        ("service_s", 0.004),
        ("away_s", 0.05),
        ("answer_s", 0.009),
        ("knee", 13.5),  # (50 + 4) / 4
        ("alone_s", 42.0),
        ("speed_up", 4.2),
        ("ceiling", 10.5),
        ("chunk_factor", 4.0),  # 80 % in the gradient: 4 x (2 + 8 + 30) = 160 against 40
    ],
)
def test_figures(figure: str, expected: float) -> None:
    assert getattr(GOOD, figure) == pytest.approx(expected)


def test_a_busy_master_wants_larger_chunks() -> None:
    # half busy with 8 workers: 8 x 8 ms of each 16 x 8 ms, less the 8 ms of the update itself
    busy = Breakdown(10.0, 1000, compute_s=70.0, other_s=10.0, busy_s=8.0)
    assert busy.chunk_factor == pytest.approx((2 * 8 * 8 - 8 - 10) / 70)


@pytest.mark.parametrize("nothing", [Breakdown(0.0, 0), Breakdown(1.0, 0), Breakdown(1.0, 5)])
def test_nothing_measured_says_nothing(nothing: Breakdown) -> None:
    assert nothing.lines() == []
    assert nothing.knee == nothing.ceiling == inf
    assert (nothing.chunk_factor, nothing.speed_up, nothing.workers) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({"compute_s": 9.0, "wait_ack_s": 60.0, "busy_s": 9.0}, "stay on one machine"),
        (
            {"compute_s": 9.0, "wait_ack_s": 60.0, "busy_s": 9.0},
            "1,333 examples instead of 50",
        ),
        ({"compute_s": 10.0, "other_s": 0.1, "busy_s": 0.1}, "if the data fits it."),
        ({"compute_s": 40.0, "wait_ack_s": 40.0, "busy_s": 9.0}, "keeps up with 5 workers. More"),
        ({"compute_s": 40.0, "wait_gate_s": 40.0, "busy_s": 1.0}, "wait for the slowest"),
        ({"compute_s": 40.0, "wait_ack_s": 40.0, "busy_s": 1.0}, "compute 50% of their time"),
        ({"compute_s": 79.0, "other_s": 1.0, "busy_s": 1.0}, "keeps up with 81 such workers"),
    ],
)
def test_advice(times: dict[str, float], expected: str) -> None:
    assert expected in Breakdown(10.0, 1000, 50_000, **times).advice()


def test_lines() -> None:
    text = "\n".join(GOOD.lines())
    for part in (
        "workers (8.0 on average): gradient 50%, coding 2%, waiting for answers 38%, else 10%",
        "answered after 9.00 ms; with all that follows it takes 4.00 ms of the master's",
        "master: busy 40%, decoding 10%, descent 20%, publishing 5%",
        "4.2 times as fast, at most 10.5 times",
        "make updates of 4.0 times as much data, from 200 examples instead of 50",
    ):
        assert part in text


def test_steps_that_return_nothing_count_as_well() -> None:
    times = {"compute_s": 16.0, "busy_s": 1.0}
    result = TrainResult(applied=20, skipped=60, examples=1000, seconds=10.0, times=times)
    assert (result.breakdown.updates, result.breakdown.examples) == (80, 4000)
    assert TrainResult(skipped=60, seconds=10.0, times=times).breakdown.examples == 0


def gradient(model, rows):  # type: ignore[no-untyped-def]
    for row in rows:
        yield {"w": np.full(20_000, row)}


def test_a_run_is_broken_down() -> None:
    with ZmqDist({"w": np.zeros(20_000)}, progress=False) as dd:
        result = dd.train([[1.0] * 30, [2.0] * 30], gradient, workers=2)
    found = result.breakdown
    assert found.updates == 60
    assert all(result.times[name] > 0 for name in ("compute_s", "encode_s", "other_s", "travel_s"))
    parts = [result.times[name] for name in ("decode_s", "descent_s", "publish_s")]
    assert all(part > 0 for part in parts)
    assert sum(parts) <= found.busy_s <= result.seconds
    assert found.worker_s <= 2 * result.seconds
    assert "where time went" in result.summary()


def test_the_wait_for_the_last_answers_is_counted() -> None:
    with ZmqDist({"w": np.zeros(20_000)}, progress=False) as dd:
        result = dd.train([[1.0]] * 4, gradient, workers=2)
    assert 0 < result.times["wait_ack_s"]
    assert 0 < result.times["travel_s"]
