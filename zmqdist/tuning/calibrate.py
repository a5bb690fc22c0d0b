"""Fit a cluster to a recorded run, and compare a simulation with a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zmqdist.core.staleness import Policy
from zmqdist.errors import ConfigError
from zmqdist.tuning.cluster import FREE, Cluster
from zmqdist.tuning.delays import (
    Constant,
    Delay,
    Exponential,
    Gamma,
    Lognormal,
    Pareto,
    Replay,
    Times,
    Weibull,
)
from zmqdist.tuning.simulate import simulate

Columns = Mapping[str, NDArray[Any]]
"""A record's columns: `zmqdist.record.Record.columns`, or `Simulated.record`."""

LEAST = 50
"""Updates below which nothing is fitted."""

WARM_UP = 0.1
"""Part of the updates at the beginning that says little: workers are still joining."""

MISFIT = 0.1
"""Kolmogorov-Smirnov distance beyond which the measured times are replayed instead."""

SAME = 0.02
"""Spread of the workers' mean times below which they count as equal."""


@dataclass(frozen=True)
class Fit:
    """One delay model fitted by maximum likelihood.

    Attributes
    ----------
    delay : Delay
    aic : float
        Akaike's criterion, ``2 k - 2 ln L``: of two models the smaller one is better.
    distance : float
        Largest distance between the fitted and the measured distribution functions.
    """

    delay: Delay
    aic: float
    distance: float


@dataclass(frozen=True)
class Calibration:
    """A cluster that behaves as a recorded run did.

    Attributes
    ----------
    cluster : Cluster
    fits : list of Fit
        Of the computing times of all workers, best first.
    tail_index : float
        Hill's estimate over the largest tenth: below 2 the variance is infinite.
    autocorrelation : float
        Of a worker's computing times at lag 1.
    """

    cluster: Cluster
    fits: list[Fit]
    tail_index: float
    autocorrelation: float


@dataclass(frozen=True)
class Comparison:
    """How far a simulation is from a run; relative errors have the sign of simulation - run.

    Attributes
    ----------
    throughput, mean_staleness : float
        Relative errors.
    staleness_distance : float
        Kolmogorov-Smirnov distance of the two distributions of tau.
    accepted : float
        Difference of the parts of the updates that were applied.
    """

    throughput: float
    mean_staleness: float
    staleness_distance: float
    accepted: float


def calibrate(
    record: Columns,
    *,
    max_in_flight: int,
    staleness: Policy | None = None,
    publish_every: int | None = None,
    replay: bool = False,
    seed: int = 0,
) -> Calibration:
    """Fit a cluster to a recorded run.

    Parameters
    ----------
    record : mapping of str to ndarray
        The columns of one run's record.
    max_in_flight, staleness, publish_every
        Those of the run.
    replay : bool, default=False
        Each simulated worker takes the computing times of one that was recorded, in their
        order: the run again, under another policy. False fits a model to them.
    seed : int

    Returns
    -------
    Calibration
        Its cluster has the run's number of workers; see `Cluster.with_workers`. Time between
        steps that is neither computing nor coding nor waiting counts as computing. What a record
        does not show on its own, the time that a message takes, is found by simulating:
        with one update in flight from how long workers waited, else from how stale the
        updates were. It holds the transfer of updates and versions of this size.

    Raises
    ------
    ConfigError
        Too few updates, or no scipy.
    """
    rows = np.flatnonzero(record["decision"] != "skipped")
    if len(rows) < LEAST:
        raise ConfigError(f"the record has {len(rows)} updates; at least {LEAST} are needed")
    rows = rows[int(WARM_UP * len(rows)) :]
    compute_s = record["compute_s"][rows] + record["encode_s"][rows] + _between_steps(record)
    workers = record["worker"][rows]
    names = np.unique(workers)
    fits = fit(compute_s)
    lags = [compute_s[workers == name] for name in names]
    correlation = float(np.mean([_autocorrelation(times) for times in lags]))
    applied = rows[record["decision"][rows] == "applied"]
    turned_down = record["master_s"][rows[record["decision"][rows] != "applied"]]
    cluster = Cluster(
        workers=len(names),
        compute=_as_recorded(lags) if replay else _compute(lags, fits, correlation),
        apply=_measured(record["master_s"][applied]),
        turn_down=_measured(turned_down) if len(turned_down) else None,
        update_bytes=int(record["bytes"][applied].mean()),
    )
    options = {
        "max_in_flight": max_in_flight,
        "staleness": staleness,
        "publish_every": publish_every,
        "max_updates": min(len(applied), 4000),
        "seed": seed,
    }
    cluster = _with_latency(cluster, record, rows, options)
    return Calibration(cluster, fits, _hill(compute_s), correlation)


def fit(times_s: Times) -> list[Fit]:
    """Fit every family of delay models to measured times; the best by AIC comes first.

    Parameters
    ----------
    times_s : ndarray of float
        In seconds, > 0.
    """
    try:
        from scipy import stats
    except ImportError:
        raise ConfigError("calibrating needs scipy: pip install 'zmqdist[tune]'") from None
    times = np.asarray(times_s, np.float64)
    mean, least = float(times.mean()), float(times.min())
    if times.std() < 1e-4 * mean:
        return [Fit(Constant(mean), -math.inf, 0.0)]
    ours: list[tuple[Delay, Any, int]] = []
    a, _, scale = stats.gamma.fit(times, floc=0)
    ours.append((Gamma(float(a), float(a * scale)), stats.gamma(a, scale=scale), 2))
    shape, _, scale = stats.weibull_min.fit(times, floc=0)
    weibull = Weibull(float(shape), float(scale))
    ours.append((weibull, stats.weibull_min(shape, scale=scale), 2))
    logs = np.log(times)
    sigma, median = float(logs.std()), math.exp(float(logs.mean()))
    ours.append((Lognormal(median, sigma), stats.lognorm(sigma, scale=median), 2))
    ours.append((Exponential(mean), stats.expon(scale=mean), 1))
    if mean > least > 0:
        rest = mean - least
        ours.append((Exponential(rest, least), stats.expon(least, rest), 2))
        # The logarithms of what is above the shift have symmetrical quantiles; that says where
        # it is, while the likelihood grows without bound as it nears the least time.
        low, middle, high = np.quantile(times, [0.05, 0.5, 0.95])
        skew = low + high - 2 * middle
        shift = (low * high - middle**2) / skew if skew > 0 else 0.0
        shift = min(max(0.0, float(shift)), least - 1e-3 * rest)
        above = np.log(times - shift)
        sigma, median = float(above.std()), math.exp(float(above.mean()))
        shifted = Lognormal(median, sigma, max(0.0, shift))
        ours.append((shifted, stats.lognorm(sigma, shift, median), 3))
        alpha = len(times) / float(np.sum(np.log(times / least)))
        ours.append((Pareto(alpha, least), stats.pareto(alpha, scale=least), 2))
    fits = []
    for delay, distribution, parameters in ours:
        likelihood = float(np.sum(distribution.logpdf(times)))
        distance = float(stats.ks_1samp(times, distribution.cdf).statistic)
        if math.isfinite(likelihood):
            fits.append(Fit(delay, 2 * parameters - 2 * likelihood, distance))
    return sorted(fits, key=lambda one: one.aic)


def compare(run: Columns, simulated: Columns) -> Comparison:
    """Compare the record of a simulation with that of a run, both without their beginning."""
    seen, found = _facts(run), _facts(simulated)
    tau = np.arange(1 + max(seen[3].max(), found[3].max()))
    shares = [
        np.searchsorted(np.sort(each[3]), tau, "right") / len(each[3]) for each in (seen, found)
    ]
    return Comparison(
        throughput=found[0] / seen[0] - 1,
        mean_staleness=found[1] / seen[1] - 1 if seen[1] else found[1],
        staleness_distance=float(np.abs(shares[0] - shares[1]).max()),
        accepted=found[2] - seen[2],
    )


def _facts(record: Columns) -> tuple[float, float, float, NDArray[np.int64]]:
    """Return throughput, mean staleness, acceptance and the staleness of applied updates."""
    rows = np.flatnonzero(record["decision"] != "skipped")
    rows = rows[int(WARM_UP * len(rows)) : math.ceil((1 - WARM_UP) * len(rows))]
    if not len(rows):
        raise ConfigError("the record has no updates to compare")
    applied = rows[record["decision"][rows] == "applied"]
    span = float(record["time_s"][rows[-1]] - record["time_s"][rows[0]])
    taus = record["tau"][applied]
    rate = (len(applied) - 1) / span if span else math.inf
    return rate, float(taus.mean()), len(applied) / len(rows), taus


def _between_steps(record: Columns) -> float:
    """Return the mean time of a step that the record does not account for, in seconds.

    Reading items, taking in a version, being scheduled: what lies between two updates of a
    worker is more than computing, coding and waiting.
    """
    spans: list[Times] = []
    told = record["compute_s"] + record["encode_s"] + record["wait_s"]
    place = (record["epoch"], record["partition"], record["worker"])
    for one in np.unique(np.stack(place), axis=1).T:
        rows = np.flatnonzero(np.all(np.stack(place) == one[:, None], axis=0))
        rows = rows[int(WARM_UP * len(rows)) :]
        spans.append(np.diff(record["time_s"][rows]) - told[rows[1:]])
    every = np.concatenate(spans)
    return max(0.0, float(every.mean())) if len(every) else 0.0


def _compute(lags: list[Times], fits: list[Fit], correlation: float) -> Delay | tuple[Delay, ...]:
    """Return one model for all workers, or one for each if they differ for good."""
    means = np.array([times.mean() for times in lags])
    errors = [times.std() / math.sqrt(max(1, len(times))) for times in lags]
    differ = means.std() > max(SAME * means.mean(), 3 * float(np.mean(errors)))
    if not differ:
        return _chosen(np.concatenate(lags), fits, correlation)
    return tuple(_chosen(times, fit(times), correlation) for times in lags)


def _as_recorded(lags: list[Times]) -> tuple[Delay, ...]:
    return tuple(Replay(tuple(times.tolist()), in_order=True) for times in lags)


def _chosen(times: Times, fits: list[Fit], correlation: float) -> Delay:
    if fits[0].distance <= MISFIT and abs(correlation) < 0.3:
        return fits[0].delay
    block = 1 if abs(correlation) < 0.3 else max(1, min(50, len(times) // 10))
    return Replay(tuple(times.tolist()), block)


def _measured(times: Times) -> Delay:
    """Return the master's times as they were measured."""
    return Replay(tuple(np.maximum(times, 0.0).tolist())) if times.max(initial=0.0) > 0 else FREE


def _with_latency(
    cluster: Cluster, record: Columns, rows: NDArray[np.int64], options: dict[str, Any]
) -> Cluster:
    """Find the latency at which the simulation waits, or is as stale, as the run was."""
    name = "wait_s" if options["max_in_flight"] == 1 else "tau"
    target = float(record[name][rows].mean())
    fields = {f: getattr(cluster, f) for f in cluster.__dataclass_fields__}

    def at(latency_s: float) -> Cluster:
        return Cluster(**{**fields, "latency_s": latency_s})

    def excess(latency_s: float) -> float:
        found = simulate(at(latency_s), **options).record[name]
        return float(found[int(WARM_UP * len(found)) :].mean()) - target

    high = float((record["compute_s"][rows] + record["wait_s"][rows]).mean())
    low = 0.0
    if excess(low) >= 0:
        return cluster
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    return at((low + high) / 2)


def _hill(times: Times) -> float:
    """Return Hill's estimate of the tail index from the largest tenth."""
    ordered = np.sort(times)[::-1]
    k = max(2, len(ordered) // 10)
    excess = float(np.mean(np.log(ordered[:k] / ordered[k])))
    return 1 / excess if excess > 0 else math.inf


def _autocorrelation(times: Times) -> float:
    if len(times) < 3 or times.std() < 1e-9 * times.mean():
        return 0.0
    return float(np.corrcoef(times[:-1], times[1:])[0, 1])
