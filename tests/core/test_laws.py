"""Conservation of staleness, as exact integer identities.

Every one of n workers always has exactly one update under way, begun on the version
that was current then. An applied update makes each of the n - 1 others one version
older, so at every instant

    sum(tau applied) + sum(tau turned down) + ages under way = (n - 1) x applied.

With a buffer the same holds of versions: a flush ages the n - 1 that are under way while
the one that filled the buffer is taken in, and an update's staleness is that on entry.

Turned down are rejected and requeued updates alike: `totals.rejected_tau` counts the
staleness of both, of a requeued step each time that it comes back.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.link import Link
from zmqdist.core.pacing import Pacing
from zmqdist.staleness import (
    Asynchronous,
    BoundedStaleness,
    Composed,
    FedBuff,
    Policy,
    RateRescaled,
    Rennala,
    Ringmaster,
    SoftSync,
    StalenessAware,
)

POLICIES: list[Policy] = [
    Asynchronous(),
    *(BoundedStaleness(n, how) for n in (0, 1, 4) for how in ("reject", "requeue", "scale")),
    *(Ringmaster(n, how) for n in (1, 3, "auto") for how in ("reject", "requeue")),
    StalenessAware("inverse"),
    RateRescaled(),
    Composed(BoundedStaleness(2), Ringmaster(2, "requeue"), StalenessAware("hinge")),
    *(FedBuff(n, timeout_s=1e9) for n in (1, 3)),
    *(SoftSync(n, timeout_s=1e9) for n in (1, 2)),
    *(Rennala(n, how) for n in (1, 2, 5) for how in ("reject", "requeue")),
]


def busy(policy: Policy, workers: int, every: int = 1) -> Link:
    """Return a link all of whose workers are computing their first step."""
    pacing = Pacing(every=every)
    link = Link(policy, partitions=workers, steps=10_000, max_in_flight=1, pacing=pacing)
    link.deliver_all()
    start_all(link)
    return link


def start_all(link: Link) -> None:
    """Let everybody that waits start; who finds its model too old pulls and then starts."""
    for _ in range(2):
        for worker in link.workers:
            if worker.computing is None:
                worker.move()
                link.deliver_all()
    assert all(worker.computing is not None for worker in link.workers)


def serve(link: Link, number: int) -> None:
    """Take in the update of one worker, which starts its next step at once."""
    worker = link.workers[number]
    assert worker.computing is not None
    worker.computing = replace(worker.computing, empty=False)  # skipped steps have no staleness
    worker.move()
    link.deliver_all()
    start_all(link)


def sums(link: Link) -> tuple[int, int, int]:
    """Return the staleness applied, turned down, and under way."""
    bases = [worker.computing.base for worker in link.workers if worker.computing]
    ages = len(bases) * link.master.version - sum(bases)
    applied = sum(tau * count for tau, count in link.master.staleness.items())
    applied += sum(action.tau for action in link.master._buffer._waiting)
    return applied, link.master.totals.rejected_tau, ages


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
@settings(max_examples=25, deadline=None)
@given(workers=st.integers(1, 6), order=st.lists(st.integers(0, 5), max_size=60))
def test_conservation(policy: Policy, workers: int, order: list[int]) -> None:
    link = busy(policy, workers)
    for number in order:
        serve(link, number % workers)
        assert sum(sums(link)) == (workers - 1) * link.master.version
    totals = link.master.totals
    taken = totals.applied + len(link.waiting)
    assert taken + totals.rejected + totals.requeued == len(order)
    link.check()


@pytest.mark.parametrize("workers", [1, 4, 16])
def test_mean_staleness_is_workers_less_one(workers: int) -> None:
    link, rng = busy(Asynchronous(), workers), Random(1)
    for _ in range(600):
        serve(link, rng.randrange(workers))
    assert sums(link)[0] / link.master.version == pytest.approx(workers - 1, abs=0.6)


@pytest.mark.parametrize("every", [1, 2, 3, 5])
@pytest.mark.parametrize("workers", [1, 4])
def test_publishing_each_pth_version_adds_half_of_p_less_one(workers: int, every: int) -> None:
    link, rng = busy(Asynchronous(), workers, every), Random(2)
    for _ in range(20 * every):
        serve(link, rng.randrange(workers))
        version = link.master.version
        late = sum(v % every for v in range(version + 1))  # begun so many versions behind
        assert sum(sums(link)) == (workers - 1) * version + late
    assert late / version == (every - 1) / 2
