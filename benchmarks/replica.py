"""One replica per host against a replica for each worker: bytes, memory, updates.

Three local worker processes train against one master. Bytes are those that the workers'
sockets hand over (frames of versions and answers), counted in each process. Memory is
what a worker has to itself at its peak: the most that was resident (VmHWM) less what it
shares (RssShmem), and less what it had before it held a model.
"""

import itertools
import json
import os
import tempfile
from pathlib import Path

import numpy as np

from benchmarks._harness import Case
from benchmarks._machine import memory
from zmqdist import RowSparse, ZmqDist
from zmqdist.net.transport import ClientSockets
from zmqdist.staleness import Asynchronous

WORKERS = 3
COLUMNS = 100
ROWS = {"27 MB": 68_000, "400 MB": 1_000_000}


def cases(options):
    for changed, part in ((0.05, "5 % of the rows"), (1.0, "all rows")):
        run = Run(ROWS["27 MB"], changed)
        yield Case(
            f"bytes into the host, 27 MB, {part} change",
            run.figure("shared", "received_mb"),
            run.figure("private", "received_mb_per_worker"),
            "MB",
            "ratio <= 1.2",
        )
        yield Case(
            f"updates, each on the newest version, 27 MB, {part} change",
            run.figure("shared", "updates_per_s"),
            run.figure("private", "updates_per_s"),
            "updates/s",
            "ratio >= 1",
        )
    run = Run(ROWS["400 MB"], 0.005)
    for mode in ("shared", "private"):
        yield Case(
            f"memory of a worker, 400 MB, {mode}",
            run.figure(mode, "memory_mb"),
            lambda: run.bytes / 1e6,
            "MB",
            "ratio <= 1.2" if mode == "shared" else "",
            repeats=1,
        )


class Run:
    """Runs of one size, in both modes; the k-th call of each figure is of the k-th run."""

    def __init__(self, rows, changed):
        self.rows, self.changed = rows, int(changed * rows)
        self.bytes = rows * COLUMNS * 4
        self.steps = 8 if self.changed == rows else 20
        self.runs = {"shared": [], "private": []}

    def figure(self, mode, name):
        count = itertools.count()
        return lambda: self.run(mode, next(count))[name]

    def run(self, mode, number):
        while len(self.runs[mode]) <= number:
            self.runs[mode].append(self.measure(mode))
        return self.runs[mode][number]

    def measure(self, mode):
        model = {"w": np.zeros((self.rows, COLUMNS), np.float32)}
        with tempfile.TemporaryDirectory() as folder:
            gradient = Gradient(folder, self.rows, self.changed)
            with ZmqDist(
                model,
                replica=mode,
                staleness=Asynchronous(),
                max_in_flight=1,
                codec="raw",
                security="none",
                progress=False,
            ) as dd:
                data = [range(self.steps)] * WORKERS
                result = dd.train(data, gradient, workers=WORKERS)
            assert result.applied == WORKERS * self.steps, result
            notes = [json.loads(path.read_text()) for path in Path(folder).iterdir()]
        assert len(notes) == WORKERS, "a process ran two partitions"
        received = sum(note["received"] for note in notes) / 1e6
        return {
            "received_mb": received,
            "received_mb_per_worker": received / WORKERS,
            "memory_mb": max(note["memory"] for note in notes) / 1e6,
            "updates_per_s": result.applied / result.seconds,
        }


class Gradient:
    """Changes some rows, and leaves a note of what the process has received and holds."""

    def __init__(self, folder, rows, changed):
        self.folder, self.rows, self.changed = folder, rows, changed

    def __setstate__(self, state):
        vars(self).update(state)
        count_bytes()  # before the worker connects

    def __call__(self, model, items):
        rng = np.random.default_rng(os.getpid())
        values = rng.normal(size=(self.changed, COLUMNS)).astype(np.float32)
        for _ in items:
            start = int(rng.integers(self.rows - self.changed + 1))
            rows = np.arange(start, start + self.changed)
            yield {"w": RowSparse(rows, values, (self.rows, COLUMNS))}
            own = memory()["VmHWM"] - memory()["RssShmem"] - received["before"]
            note = {"received": received["bytes"], "memory": own - values.nbytes}
            Path(self.folder, str(os.getpid())).write_text(json.dumps(note))


received = {"bytes": 0, "before": 0}


def count_bytes():
    receive = ClientSockets.receive

    def counting(sockets):
        frames = receive(sockets)
        received["bytes"] += sum(memoryview(frame).nbytes for frame in frames or ())
        return frames

    ClientSockets.receive = counting
    received["before"] = memory()["VmRSS"]
