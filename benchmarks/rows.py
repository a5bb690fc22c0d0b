"""Updates of 5,000 rows of a float32 array of 1,000,000 x 100, as `RowSparse`.

The limit is the scatter-add of those rows alone plus a bare DEALER that sends their bytes
to a ROUTER, one after the other. The other row sends the same update as a dense array.
Publication is off.
"""

import time

import numpy as np

from benchmarks import _raw
from benchmarks._harness import Case
from zmqdist import RowSparse, ZmqDist
from zmqdist.staleness import Asynchronous

SHAPE, TOUCHED = (1_000_000, 100), 5_000
SPARSE, DENSE = 300, 6
"""Updates sent in each form."""

NEVER = 1 << 60


def cases(options):
    for security in ("none", "curve"):
        yield _case(security)
    yield Case(
        "dense / row-sparse, curve",
        lambda: trained(dense, DENSE, "curve") / trained(touching, SPARSE, "curve"),
        lambda: 1.0,
        "times",
        "ours >= 50",
        repeats=min(3, options.repeats),
    )


def _case(security):
    return Case(
        f"row-sparse, {'plain' if security == 'none' else security}",
        lambda: trained(touching, SPARSE, security),
        lambda: limit(curve=security == "curve"),
        "ms/update",
        "ratio <= 1.5",
    )


def trained(gradient, count, security):
    times = []

    def descent(model, update):
        model["w"] += update["w"]
        times.append(time.perf_counter())

    model = {"w": np.zeros(SHAPE, np.float32)}
    options = {"security": security, "publish_every": NEVER, "progress": False}
    with ZmqDist(model, staleness=Asynchronous(), **options) as dd:
        result = dd.train([[count]], gradient, descent)
    assert result.applied == count
    return 1000 * _raw.seconds_per_item(times, count // 4)


def touched(seed):
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(SHAPE[0], TOUCHED, replace=False))
    return rows, rng.normal(size=(TOUCHED, SHAPE[1])).astype(np.float32)


def touching(model, data):
    updates = [RowSparse(*touched(seed), SHAPE) for seed in range(8)]
    for number in range(next(data)):
        yield {"w": updates[number % len(updates)]}


def dense(model, data):
    update = np.zeros(SHAPE, np.float32)
    for number in range(next(data)):
        rows, values = touched(number % 8)
        update[rows] = values
        yield {"w": update}
        update[rows] = 0


def limit(*, curve):
    model = np.zeros(SHAPE, np.float32)
    updates = [touched(seed) for seed in range(8)]
    model[::10] = 1  # pages that are there
    started = time.perf_counter()
    for number in range(SPARSE):
        rows, values = updates[number % len(updates)]
        part = model.take(rows, axis=0)
        part += values
        model[rows] = part
    scatter_s = (time.perf_counter() - started) / SPARSE
    floats = TOUCHED * (SHAPE[1] + 1)
    return 1000 * (scatter_s + _raw.flooded(floats, SPARSE, curve=curve, adds=False))
