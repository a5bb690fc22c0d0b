"""From `train()` to the first applied update, in Spark, against an empty job of the same shape.

The job has as many partitions, from the same RDD, on the same session of `local[2]`, whose
Python workers have run before. A second row is of local processes, against as many new ones
that import numpy: there the interpreter is what takes the time.
"""

import subprocess
import sys
import time

import numpy as np

from benchmarks._harness import Case
from benchmarks._spark import session
from zmqdist import ZmqDist

PARTITIONS, ELEMENTS = 4, 250_000


def cases(options):
    spark = session(2, "1g")
    rdd = spark.sparkContext.parallelize(range(PARTITIONS), PARTITIONS).persist()
    first_update(rdd)  # imports in the Python workers are not what is measured
    yield Case(
        "Spark, first update later than an empty job",
        lambda: first_update(rdd) - empty_job(rdd),
        lambda: 1.0,
        "s",
        "ours <= 0.3",
    )
    yield Case("Spark, first update", lambda: first_update(rdd), lambda: empty_job(rdd), "s")
    spark.stop()
    local = [[number] for number in range(2)]
    yield Case("2 local processes, first update", lambda: first_update(local), interpreters, "s")


def first_update(data):
    """Return the seconds from `train()` to the end of the first `descent`."""
    times = []

    def descent(model, update):
        model["w"] += update["w"]
        times.append(time.perf_counter())

    with ZmqDist({"w": np.zeros(ELEMENTS, np.float32)}, progress=False) as dd:
        started = time.perf_counter()
        dd.train(data, gradient, descent)
    return times[0] - started


def gradient(model, data):
    return {"w": np.full(ELEMENTS, next(data) + 1, np.float32)}


def empty_job(rdd):
    started = time.perf_counter()
    rdd.mapPartitions(lambda items: [sum(items)]).collect()
    return time.perf_counter() - started


def interpreters():
    started = time.perf_counter()
    processes = [subprocess.Popen([sys.executable, "-c", "import numpy"]) for _ in range(2)]
    for process in processes:
        process.wait()
    return time.perf_counter() - started
