"""Dynamic allocation takes an idle executor in the midst of a training, and brings another.

On a standalone cluster of two workers. Usage: allocation.py FOLDER. Prints one JSON line.

In the first epoch partition 0 goes on only once the executor of partition 1, which has
ended, is gone. In the second it waits for partition 1, which needs another executor.
"""

import math
import os
from pathlib import Path

import numpy as np
from cluster import descent, run, session, wait_for
from pyspark import TaskContext

from zmqdist import ZmqDist

SIZE, IDLE_S = 5, 2


def executor():
    """Return (pid, id) of the JVM of the executor that this task belongs to."""
    daemon = os.getppid()
    jvm = int(Path(f"/proc/{daemon}/stat").read_text().rsplit(")", 1)[1].split()[1])
    words = Path(f"/proc/{jvm}/cmdline").read_text().split("\0")
    return jvm, words[words.index("--executor-id") + 1]


def gradient_of(folder):
    """Note each executor as PARTITION-TASK-ID.PID, and each call."""

    def noted(start):
        return [name for name in os.listdir(folder) if name.startswith(start)]

    def gradient(model, items):
        task = TaskContext.get()
        jvm, number = executor()
        me = f"{task.partitionId()}-{task.taskAttemptId()}-{number}"
        Path(folder, f"{me}.{jvm}").touch()
        first = me.split("-")[1] == min(n.split("-")[1] for n in noted(f"{task.partitionId()}-"))
        if task.partitionId() == 0 and first:
            wait_for(lambda: noted("1-"))
            mate = noted("1-")[0].rsplit(".")[1]
            wait_for(lambda: not os.path.exists(f"/proc/{mate}"))
        elif task.partitionId() == 0:
            wait_for(lambda: len(noted("1-")) == 2)
        return {"n": 1}

    return gradient


def train(url, folder):
    spark = session(
        url,
        locality_wait="0",
        dynamicAllocation_enabled="true",
        dynamicAllocation_shuffleTracking_enabled="true",
        dynamicAllocation_maxExecutors="2",
        dynamicAllocation_executorIdleTimeout=f"{IDLE_S}s",
    )
    sc = spark.sparkContext
    (folder / "lines.txt").write_text("".join(f"line {n:4}\n" for n in range(80)))
    rdd = sc.textFile((folder / "lines.txt").as_uri(), 2)
    sizes = rdd.glom().map(len).collect()
    notes = folder / "notes"
    notes.mkdir()
    with ZmqDist({"n": np.zeros(1)}) as dd:
        result = dd.train(rdd, gradient_of(str(notes)), descent, batch_size=SIZE, epochs=2)
        counted = int(dd.model["n"][0])
    spark.stop()
    return {
        "batches": 2 * sum(math.ceil(n / SIZE) for n in sizes),
        "partitions": 2 * len(sizes),
        "counted": counted,
        "version": result.version,
        "applied": result.applied,
        "duplicates": result.duplicates,
        "failed": result.failed,
        "sessions": result.sessions,
        "attempts": sorted(os.listdir(notes)),
        "executors": sorted({name.split("-")[2].split(".")[0] for name in os.listdir(notes)}),
        "seconds": round(result.seconds, 1),
    }


if __name__ == "__main__":
    run(train)
