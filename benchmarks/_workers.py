"""What the gradients of the benchmarks share; runs in the worker processes."""

import itertools
import time
from pathlib import Path

import numpy as np

POLL_S = 0.002


def meet(folder, name, count):
    """Wait until so many workers have come here: nobody has a head start."""
    place = Path(folder)
    (place / name).touch()
    group = name.rpartition("-")[0]
    until = time.monotonic() + 120
    while len(list(place.glob(f"{group}-*"))) < count:
        assert time.monotonic() < until, f"not {count} workers at {group}"
        time.sleep(POLL_S)


def constant(model, data):
    """Yield the same dense update again and again, once all workers are there.

    An item of the partition says how many workers, how many updates and of what size.
    """
    ((folder, number, workers, elements, count),) = itertools.islice(data, 1)
    update = np.random.default_rng(0).normal(size=elements).astype(np.float32)
    meet(folder, f"constant-{number}", workers)
    for _ in range(count):
        yield {"w": update}
