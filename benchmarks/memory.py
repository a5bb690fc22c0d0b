"""Peak memory of the master and of each worker with 400 MB of parameters.

Three workers send updates of 1 % of the rows; the model goes out as often as the master
likes. Once with a replica for each worker and once with one for the host, of which each
worker's own memory is counted, and the shared replica on its own.
"""

import json
import subprocess
import sys
import threading

import numpy as np

from benchmarks._harness import Case
from benchmarks._machine import memory

SHAPE = (1_000_000, 100)
MODEL_BYTES = SHAPE[0] * SHAPE[1] * 4
WORKERS, STEPS, TOUCHED = 3, 12, 10_000
SAMPLE_S = 0.01


def cases(options):
    for replica in ("private", "shared"):
        run = Run(replica)
        for who, most in (("master", 2.5), ("worker", 2.5 if replica == "private" else 1.2)):
            yield Case(
                f"{who}, {replica} replica",
                lambda run=run, who=who: run.peak(who),
                lambda: MODEL_BYTES / 1e6,
                "MB",
                f"ratio <= {most}",
                repeats=min(3, options.repeats),
            )


class Run:
    """Runs in processes of their own; each is good for one figure of each kind."""

    def __init__(self, replica):
        self.replica = replica
        self._found = {"master": [], "worker": []}

    def peak(self, who):
        if not self._found[who]:
            command = [sys.executable, "-m", "benchmarks.memory", self.replica]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
            for name, figure in json.loads(done.stdout.splitlines()[-1]).items():
                self._found[name].append(figure)
        return self._found[who].pop()


class Peak:
    """Samples this process's own memory (shared memory left out) until it is asked."""

    def __init__(self):
        self._most = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self):
        while True:
            self._most = max(self._most, own_bytes())
            if self._over.wait(SAMPLE_S):
                return

    def megabytes(self):
        self._over.set()
        self._thread.join()
        return self._most / 1e6


def own_bytes():
    now = memory()
    return now["RssAnon"] + now["RssFile"]


_peak = None


def gradient(model, data):
    from zmqdist import RowSparse, Update

    global _peak
    _peak = _peak or Peak()
    rng = np.random.default_rng(next(data))
    for step in range(STEPS):
        rows = np.sort(rng.choice(SHAPE[0], TOUCHED, replace=False))
        values = rng.normal(size=(TOUCHED, SHAPE[1])).astype(np.float32)
        metrics = {"peak": _peak.megabytes()} if step == STEPS - 1 else {}
        yield Update({"w": RowSparse(rows, values, SHAPE)}, metrics=metrics)


def descent(model, update):
    model["w"] += update["w"]


def run(replica):
    """Train in this process, and print its peak and the mean of the workers'."""
    from zmqdist import ZmqDist

    peak = Peak()
    model = {"w": np.zeros(SHAPE, np.float32)}
    rng = np.random.default_rng(0)
    for first in range(0, SHAPE[0], TOUCHED):  # noise, which nothing compresses
        model["w"][first : first + TOUCHED] = rng.normal(size=(TOUCHED, SHAPE[1]))
    with ZmqDist(model, replica=replica, progress=False) as dd:
        data = [[seed] for seed in range(WORKERS)]
        result = dd.train(data, gradient, descent, workers=WORKERS)
    assert result.applied == WORKERS * STEPS
    workers = [entry["peak"] for entry in result.history if "peak" in entry]
    print(json.dumps({"master": peak.megabytes(), "worker": max(workers)}))


if __name__ == "__main__":
    run(sys.argv[1])
