"""Updates of 1 kB from 1 to 8 worker processes, applied, with policy, ledger and acks.

The limit is a bare pyzmq loop that answers requests of the same size and adds them up,
with as many of each process under way (2).
"""

import tempfile
import time

import numpy as np

from benchmarks import _raw
from benchmarks._harness import Case
from benchmarks._workers import constant
from zmqdist import ZmqDist
from zmqdist.staleness import BoundedStaleness

ELEMENTS = 250
UPDATES = 16_000
"""Of all workers together."""


def cases(options):
    for workers in (1, 2, 4, 8):
        yield _case(workers, "none")
    yield _case(8, "curve")


def _case(workers, security):
    return Case(
        f"{workers} worker{'s' * (workers > 1)}, {'plain' if security == 'none' else security}",
        lambda: ours(workers, security),
        lambda: 1 / _raw.asked(ELEMENTS, UPDATES // workers, workers, curve=security == "curve"),
        "updates/s",
        "ours >= 10000",
    )


def ours(workers, security):
    times = []

    def descent(model, update):
        model["w"] += update["w"]
        times.append(time.perf_counter())

    model = {"w": np.zeros(ELEMENTS, np.float32)}
    count = UPDATES // workers
    with tempfile.TemporaryDirectory() as folder:
        data = [[(folder, number, workers, ELEMENTS, count)] for number in range(workers)]
        policy = BoundedStaleness(UPDATES)  # asked each time, and always content
        with ZmqDist(model, staleness=policy, security=security, progress=False) as dd:
            result = dd.train(data, constant, descent, workers=workers)
    assert result.applied == UPDATES, result
    return 1 / _raw.seconds_per_item(times[: UPDATES * 9 // 10], UPDATES // 10)
