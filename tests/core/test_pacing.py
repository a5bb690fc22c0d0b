from __future__ import annotations

import pytest

from zmqdist.core.pacing import Pacing, per_round
from zmqdist.errors import ConfigError
from zmqdist.staleness import (
    Asynchronous,
    BoundedStaleness,
    BulkSynchronous,
    FedBuff,
    Policy,
    SoftSync,
)


@pytest.mark.parametrize(
    ("pacing", "due"),
    [
        (Pacing(every=1), [(1, 0, 0.0), (2, 1, 0.0)]),
        (Pacing(every=3), [(3, 0, 0.0), (4, 1, 9.0), (3, -1, 0.0)]),
        (Pacing(interval_s=2.0), [(1, 0, 12.0), (9, 0, 12.0)]),
        (Pacing(every=3, interval_s=2.0), [(3, 0, 12.0)]),
        (Pacing(), [(1, 0, 12.0), (1, -1, 12.0)]),  # from 10.0 to 10.5: three times that later
    ],
    ids=lambda value: str(vars(value)) if isinstance(value, Pacing) else None,
)
def test_pacing_due(pacing: Pacing, due: list[tuple[int, int, float]]) -> None:
    pacing.was_published(10.0, 10.5)
    for version, published, now in due:
        assert pacing.due(version, published, now)
        assert not pacing.due(version - 1, version - 1, now)
        if pacing.every is not None:
            assert not pacing.due(version - 1, published, now)
        if now == 12.0:
            assert not pacing.due(version, published, 11.99)


def test_a_version_without_all_workers_waits_until_it_is_cheap() -> None:
    pacing = Pacing()
    pacing.was_published(10.0, 10.5, 4.0)
    assert pacing.due_in_s(104, 100, 10.5) == 1.5  # one of each: a quarter of the time
    assert pacing.due_in_s(103, 100, 10.5) == 9.5  # a twentieth
    assert pacing.due(103, 100, 20.0)
    pacing.was_published(20.0, 20.5, 1.0)
    assert pacing.due_in_s(104, 103, 20.5) == 1.5


@pytest.mark.parametrize("pacing", [Pacing(every=2), Pacing(every=2, interval_s=1.0)])
def test_who_says_how_often_is_not_held_up_by_workers(pacing: Pacing) -> None:
    pacing.was_published(10.0, 10.5, 8.0)
    assert pacing.due(2, 0, 11.0)


@pytest.mark.parametrize(
    ("policy", "workers", "versions"),
    [
        (Asynchronous(), 8, 8.0),
        (BoundedStaleness(4), 0, 0.0),
        (SoftSync(2), 8, 2.0),
        (FedBuff(16), 8, 0.5),
        (BulkSynchronous(), 8, 1.0),
    ],
    ids=repr,
)
def test_versions_of_a_round(policy: Policy, workers: int, versions: float) -> None:
    assert per_round(policy, workers) == versions


@pytest.mark.parametrize(
    "options", [{"every": 0}, {"every": -1}, {"interval_s": -0.1}, {"bytes_per_s": 0.0}]
)
def test_bad_pacing_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Pacing(**options)


def test_what_was_sent_is_paid_for_before_the_next_version() -> None:
    pacing = Pacing(every=1, bytes_per_s=1_000.0)
    assert pacing.due(1, 0, 10.0)
    pacing.sent(500, 10.0)
    pacing.sent(1_500, 11.0)  # the first is paid for: nothing is left of the time between
    assert pacing.due_in_s(2, 1, 11.0) == 1.5
    assert pacing.due_in_s(1, 1, 11.0) is None  # nothing new
    assert pacing.due(2, 1, 12.5)
