"""Speculation on a standalone cluster of two workers.

Spark puts no speculative copy on the host of the running attempt, hence two hosts.
Usage: speculation.py FOLDER. Prints one JSON line.
"""

import math
import os
from pathlib import Path

import numpy as np
from cluster import descent, run, session, wait_for
from pyspark import TaskContext

from zmqdist import ZmqDist

SIZE = 5  # items per batch


def gradient_of(folder):
    """Note each call as PARTITION-ATTEMPT.CALL; the first attempt at partition 1 is slow.

    Its third call waits until its copy has sent two updates, so that the next two it
    sends itself are duplicates; before the copy has seen these it does not end.
    """

    def noted(attempt, call):
        return os.path.exists(os.path.join(folder, f"1-{attempt}.{call}"))

    def gradient(model, items):
        task = TaskContext.get()
        me = f"{task.partitionId()}-{task.attemptNumber()}"
        call = sum(name.startswith(f"{me}.") for name in os.listdir(folder))
        Path(folder, f"{me}.{call}").touch()
        if (me, call) == ("1-0", 2):
            wait_for(lambda: noted(1, 2))
        if (me, call) == ("1-1", 3):
            wait_for(lambda: noted(0, 4))
        return {"n": 1}

    return gradient


def speculate(url, folder):
    spark = session(
        url,
        speculation="true",
        speculation_interval="100ms",
        speculation_multiplier="1.1",
        speculation_quantile="0.3",
        speculation_minTaskRuntime="100ms",
    )
    sc = spark.sparkContext
    (folder / "lines.txt").write_text("".join(f"line {n:4}\n" for n in range(160)))
    rdd = sc.textFile((folder / "lines.txt").as_uri(), 4)
    sizes = rdd.glom().map(len).collect()
    notes = folder / "notes"
    notes.mkdir()
    with ZmqDist({"n": np.zeros(1)}, max_in_flight=1) as dd:
        result = dd.train(rdd, gradient_of(str(notes)), descent, batch_size=SIZE)
        counted = int(dd.model["n"][0])
    spark.stop()
    return {
        "batches": sum(math.ceil(n / SIZE) for n in sizes),
        "partitions": len(sizes),
        "counted": counted,
        "version": result.version,
        "applied": result.applied,
        "duplicates": result.duplicates,
        "sessions": result.sessions,
        "attempts": sorted({name.split(".")[0] for name in os.listdir(notes)}),
        "seconds": round(result.seconds, 1),
    }


if __name__ == "__main__":
    run(speculate)
