"""What checkpoints of a large model cost: updates per second with them and without.

Two worker processes send changes of 1,000 rows of a table of `--megabytes`. Ours writes a
checkpoint each `--every` seconds, the limit none. The second case is the copy alone, for
which the master stands still, against a bare copy of as many bytes.
"""

import contextlib
import logging
import tempfile
import threading
import time

import numpy as np

from benchmarks._harness import Case
from zmqdist import RowSparse, ZmqDist
from zmqdist.core.master_state import MasterState
from zmqdist.errors import TrainTimeout
from zmqdist.models.base import parameters_of
from zmqdist.options import MasterOptions
from zmqdist.saver import Saver
from zmqdist.staleness import Asynchronous

WIDTH, ROWS = 100, 1000


class Endless:
    """A partition without an end."""

    def __init__(self, seed):
        self.seed = seed

    def __iter__(self):
        rng = np.random.default_rng(self.seed)
        while True:
            yield rng.integers(1 << 30)


class Gradient:
    """Changes rows here and there."""

    def __init__(self, n_rows):
        self.n_rows = n_rows

    def __call__(self, model, batch):
        rng = np.random.default_rng(batch[0])
        rows = np.unique(rng.integers(0, self.n_rows, ROWS))
        values = rng.standard_normal((len(rows), WIDTH), np.float32)
        threading.Event().wait(0.005)
        return {"table": RowSparse(rows, values, (self.n_rows, WIDTH))}


def arguments(add):
    add("--megabytes", type=int, default=400, help="of the model (default: %(default)s)")
    add("--every", type=float, default=60.0, help="seconds (default: %(default)s)")
    add("--seconds", type=float, default=75.0, help="of each run (default: %(default)s)")


def cases(options):
    size = f"{options.megabytes} MB"
    yield Case(
        f"{size}, each {options.every:g} s",
        lambda: rate(options, checkpoints=True),
        lambda: rate(options, checkpoints=False),
        "updates/s",
        "ratio >= 0.95",
        repeats=1,
    )
    yield Case(
        f"{size}, the copy", lambda: copied(options), lambda: bare_copy(options), "GB/s", repeats=3
    )


def table(options):
    """Return an array in memory of its own: zeros that nobody wrote share one page."""
    return np.ones((options.megabytes * 10**6 // (4 * WIDTH), WIDTH), np.float32)


def rate(options, checkpoints):
    """Return the applied updates per second, the first quarter of the run left out."""
    model, seen = {"table": table(options)}, []
    logging.getLogger("zmqdist").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        own = {"checkpoint": folder, "checkpoint_every_s": options.every} if checkpoints else {}
        with ZmqDist(model, staleness=Asynchronous(), security="none", **own) as dd:
            with contextlib.suppress(TrainTimeout):
                dd.train(
                    [Endless(1), Endless(2)],
                    Gradient(len(model["table"])),
                    batch_size=1,
                    workers=2,
                    timeout_s=options.seconds,
                    callbacks=[lambda stats: seen.append((time.monotonic(), stats["applied"]))],
                )
            if checkpoints:
                written = dd.stats()["checkpoints"]
                assert written >= 1, f"{written} checkpoints: the run is too short"
    start = seen[0][0] + (seen[-1][0] - seen[0][0]) / 4
    steady = [(at, n) for at, n in seen if at >= start]
    return (steady[-1][1] - steady[0][1]) / (steady[-1][0] - steady[0][0])


def copied(options):
    """Return how fast a master copies its model for a checkpoint."""
    model = {"table": table(options)}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        saver = Saver(MasterOptions(checkpoint=folder), parameters_of(model), "run")
        state = MasterState("run", Asynchronous(), schema={})
        saver.save(state)  # makes the buffers
        saver.wait()
        started = time.perf_counter()
        saver.save(state)
        seconds = time.perf_counter() - started
        saver.close()
    return model["table"].nbytes / seconds / 1e9


def bare_copy(options):
    model, other = table(options), table(options)
    started = time.perf_counter()
    np.copyto(other, model)
    return model.nbytes / (time.perf_counter() - started) / 1e9
