"""Many workers for many minutes under random kills: exact counts, flat memory, no leaks.

Local worker processes send small updates; one of them is killed every few seconds. Each
step of an epoch must have counted once, and the process of the master must end with the
memory and the descriptors that it had in its second minute.
"""

import argparse
import contextlib
import json
import os
import random
import re
import signal
import statistics
import sys
import threading
import time

import numpy as np

from benchmarks._chaos import leftovers, local_workers, send
from benchmarks._machine import load, machine
from zmqdist import ZmqDist
from zmqdist.errors import TrainTimeout
from zmqdist.staleness import Asynchronous


class Gradient:
    """Sends the name of its step after `step_s`."""

    def __init__(self, step_s):
        self.step_s = step_s

    def __call__(self, model, batch):
        threading.Event().wait(self.step_s)
        return {"who": np.array(batch[0]), "w": np.full(16, 1e-6)}


class Tally:
    """A descent that counts each step; its memory does not grow."""

    def __init__(self, partitions, steps):
        self.counts = np.zeros((partitions, steps), np.int64)

    def __call__(self, model, update):
        model["w"] += update["w"]
        self.counts[tuple(update["who"])] += 1


class Watch:
    """Samples this process each second, and kills a worker now and then."""

    def __init__(self, every_s, seed):
        self.samples = []
        self.kills = 0
        self._every_s = every_s
        self._chance = random.Random(seed)
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._sample, self._kill)
        ]

    def __enter__(self):
        self.started = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _sample(self):
        while not self._over.wait(1):
            descriptors = len(os.listdir("/proc/self/fd"))
            workers = [resident_mb(pid) for pid in local_workers()]
            at = time.monotonic() - self.started
            self.samples.append((at, resident_mb("self"), descriptors, len(workers), sum(workers)))

    def _kill(self):
        while not self._over.wait(self._chance.expovariate(1 / self._every_s)):
            if workers := sorted(local_workers()):
                send(self._chance.choice(workers), signal.SIGKILL)
                self.kills += 1

    def medians(self, begin_s, end_s):
        """Return the medians of memory, descriptors, workers and their memory in a time."""
        rows = [row[1:] for row in self.samples if begin_s <= row[0] < end_s]
        names = ("memory_mb", "descriptors", "workers", "workers_mb")
        return {
            name: round(statistics.median(column), 1)
            for name, column in zip(names, zip(*rows, strict=True), strict=True)
        }


def resident_mb(process):
    with contextlib.suppress(OSError), open(f"/proc/{process}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    return 0.0


def main():
    options = arguments()
    before, seconds = leftovers(), options.minutes * 60
    tally = Tally(options.partitions, options.steps)
    data = [[(p, step) for step in range(options.steps)] for p in range(options.partitions)]
    result = {"name": "soak", "options": vars(options), "machine": machine(), "load_before": load()}
    error, epochs = "", 0
    model = {"w": np.zeros(16)}
    with (
        ZmqDist(model, staleness=Asynchronous(), lease_s=options.lease) as dd,
        Watch(options.kill_every, options.seed) as watch,
    ):
        try:
            dd.train(
                data,
                Gradient(options.step),
                tally,
                batch_size=1,
                workers=options.workers,
                epochs=1_000_000,
                timeout_s=seconds,
            )
        except TrainTimeout as ended:
            epochs = int(re.search(r"in epoch (\d+) of", str(ended))[1]) - 1
        except Exception as caught:
            error = f"{type(caught).__name__}: {caught}"[:500]
        stats, version = dd.stats(), dd.version
    # The second minute against the last; of a short run, the second quarter.
    length = min(60, seconds / 4)
    early, late = watch.medians(length, 2 * length), watch.medians(seconds - length, seconds)
    counted = int(tally.counts.sum())
    result |= {
        "updates": counted,
        "updates_per_s": round(counted / seconds, 1),
        "epochs": epochs,
        "kills": watch.kills,
        "lost": int((epochs - np.minimum(tally.counts, epochs)).sum()),
        "duplicated": int(np.maximum(tally.counts - (epochs + 1), 0).sum()),
        "counts_agree": counted == version == stats["applied"],
        "sessions": stats["sessions"],
        "evicted": stats["evicted"],
        "early": early,
        "late": late,
        "memory_growth": round(late["memory_mb"] / early["memory_mb"] - 1, 4),
        "descriptor_growth": late["descriptors"] - early["descriptors"],
        "left_behind": len(leftovers() - before),
        "error": error,
        "load_after": load(),
    }
    result["met"] = (
        not (result["lost"] or result["duplicated"] or result["left_behind"] or error)
        and result["counts_agree"]
        and abs(result["memory_growth"]) <= 0.05
        and result["descriptor_growth"] <= 5
    )
    for name in list(result)[4:]:
        print(f"{name:<18} {result[name]}")
    if options.json:
        print(json.dumps(result | {"samples": [[round(x, 1) for x in s] for s in watch.samples]}))
    sys.exit(0 if result["met"] else 1)


def arguments():
    made = argparse.ArgumentParser(prog="python -m benchmarks soak", description=__doc__)
    add = made.add_argument
    add("--minutes", type=float, default=15, help="(default: %(default)s)")
    add("--workers", type=int, default=64, help="(default: %(default)s)")
    add("--partitions", type=int, default=256, help="(default: %(default)s)")
    add("--steps", type=int, default=50, help="of each partition (default: %(default)s)")
    add("--step", type=float, default=0.05, metavar="S", help="(default: %(default)s)")
    add("--kill-every", type=float, default=3, metavar="S", help="mean (default: %(default)s)")
    add("--lease", type=float, default=20, metavar="S", help="(default: %(default)s)")
    add("--seed", type=int, default=0)
    add("--json", action="store_true", help="print one JSON object as the last line")
    return made.parse_args()
