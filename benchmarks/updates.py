"""Dense float32 updates from one worker process to an applied numpy `descent`.

The limit is a bare pyzmq DEALER that sends the same bytes in 1 MiB frames to a ROUTER,
and `np.add` there. Publication is off on both sides; then once more with it on, where
the bare one copies and sends the model as often as zmqdist did.
"""

import time

import numpy as np

from benchmarks import _raw
from benchmarks._harness import Case
from zmqdist import ZmqDist
from zmqdist.staleness import Asynchronous

SIZES = {"10 kB": (2_500, 4_000), "1 MB": (250_000, 1_000), "27 MB": (6_800_000, 60)}
"""Elements of an update, and how many are sent."""

NEVER = 1 << 60


def cases(options):
    for publishing in (False, True):
        for security in ("none", "curve"):
            for size, (elements, count) in SIZES.items():
                run = Run(elements, count, security, publishing)
                name = f"{size}, {'plain' if security == 'none' else security}"
                yield Case(
                    f"{name}, published" if publishing else name,
                    run.ours,
                    run.limit,
                    "updates/s",
                    "" if size == "10 kB" else "ratio >= 0.8",
                )


class Run:
    def __init__(self, elements, count, security, publishing):
        self.elements, self.count, self.security = elements, count, security
        self.publishing = publishing
        self.updates_per_version = NEVER

    def ours(self):
        times = []

        def descent(model, update):
            model["w"] += update["w"]
            times.append(time.perf_counter())

        model = {"w": np.zeros(self.elements, np.float32)}
        every = None if self.publishing else NEVER
        partition = [(self.elements, self.count)]
        options = {"security": self.security, "publish_every": every, "progress": False}
        with ZmqDist(model, staleness=Asynchronous(), **options) as dd:
            result = dd.train([partition], gradient, descent)
        assert result.applied == self.count == len(times), result
        versions = result.bytes_published_decoded / model["w"].nbytes
        self.updates_per_version = max(1, round(self.count / versions))
        return 1 / _raw.seconds_per_item(times, self.count // 4)

    def limit(self):
        return 1 / _raw.flooded(
            self.elements,
            self.count,
            curve=self.security == "curve",
            publish_every=self.updates_per_version if self.publishing else None,
        )


def gradient(model, data):
    ((elements, count),) = data
    update = np.random.default_rng(0).normal(size=elements).astype(np.float32)
    for _ in range(count):
        yield {"w": update}
