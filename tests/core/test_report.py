"""What a master counts fits into a header, however long it runs."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from zmqdist.core.actions import Apply
from zmqdist.core.ledger import MAX_PARTITIONS, Key
from zmqdist.core.messages import Push
from zmqdist.core.report import EXACT_TAU, MAX_METRICS, Counts, Epoch, Totals, binned
from zmqdist.core.sessions import Session
from zmqdist.wire.frames import pack

SESSION = Session(1, b"peer", 0, 0, 1, "w", 0, 0.0)


def applied(tau: int) -> Apply:
    return Apply(Key(0, 0, tau), SESSION, Push(1, 0, 0, examples=2), tau, 1.0)


@given(st.integers(0, 2**40))
def test_bins_are_fine(tau: int) -> None:
    assert abs(binned(tau) - tau) <= tau / 200
    assert binned(binned(tau)) == binned(tau)
    assert tau >= EXACT_TAU or binned(tau) == tau


def test_bins_are_in_order() -> None:
    assert all(binned(one) <= binned(other) for one, other in pairwise(range(5_000)))


def test_a_histogram_of_any_staleness_fits_into_a_report() -> None:
    counts = Counts()
    for tau in [*range(20_000), *range(20_000, 10**7, 501)]:
        counts.applied(applied(tau))
    report = counts.report(Epoch("", 0.0), [], version=0, published=0, workers=1)
    assert len(json.dumps(report.staleness)) < 50_000
    assert sum(count for _, count in report.staleness) == counts.totals.applied
    mean = sum(tau * count for tau, count in report.staleness) / counts.totals.applied
    exact = (sum(range(20_000)) + sum(range(20_000, 10**7, 501))) / counts.totals.applied
    assert abs(mean / exact - 1) < 1e-3


def test_metrics_of_any_name_fit_into_a_report_with_all_partitions_missing() -> None:
    counts = Counts()
    for number in range(2 * MAX_METRICS):
        for name in (f"{number}" + "\N{SNOWMAN}" * 15, f"{number}" + "x" * 10_000):
            counts.applied(replace(applied(0), push=Push(1, 0, 0, metrics={name: 1 / 3})))
    report = counts.report(
        Epoch("", 0.0), list(range(MAX_PARTITIONS)), version=0, published=0, workers=1
    )
    assert len(report.metrics) == MAX_METRICS
    pack(report)


def test_examples_fit_into_a_header_whatever_workers_say() -> None:
    counts = Counts()
    for examples in (2**63 - 1, 2**63 - 1, 5):
        counts.applied(replace(applied(0), push=Push(1, 0, 0, examples=examples)))
    pack(counts.report(Epoch("", 0.0), [], version=0, published=0, workers=1))
    assert counts.totals.examples == 2**62


def test_times_stay_finite_whatever_workers_say() -> None:
    """They stand in reports, which are JSON."""
    totals = Totals()
    for compute_s in (1.7e308, 1.7e308, -1.7e308):
        totals.worked(Push(1, 0, 0, compute_s=compute_s, other_s=0.5))
    assert totals.compute_s == 0.0
    assert totals.other_s == 1.5
