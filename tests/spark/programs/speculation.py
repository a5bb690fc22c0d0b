"""Speculation on a standalone cluster of two workers.

Spark puts no speculative copy on the host of the running attempt, hence two hosts.
Usage: speculation.py FOLDER. Prints one JSON line.
"""

import json
import math
import os
import sys
from pathlib import Path

import cloudpickle
import cluster
import numpy as np
from cluster import Cluster, wait_for
from pyspark import TaskContext
from pyspark.sql import SparkSession

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


def descent(model, update):
    model["n"] += update["n"]


def main():
    cloudpickle.register_pickle_by_value(cluster)  # executors cannot import it
    folder = Path(sys.argv[1])
    spark = Cluster(folder)
    try:
        sys.stdout.write(json.dumps(speculate(spark.url, folder)) + "\n")
    finally:
        spark.stop()


def speculate(url, folder):
    spark = (
        SparkSession.builder.master(url)
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.executor.memory", "512m")
        .config("spark.executor.cores", "1")
        .config("spark.speculation", "true")
        .config("spark.speculation.interval", "100ms")
        .config("spark.speculation.multiplier", "1.1")
        .config("spark.speculation.quantile", "0.3")
        .config("spark.speculation.minTaskRuntime", "100ms")
        .getOrCreate()
    )
    sc = spark.sparkContext
    sc.setLogLevel("OFF")
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
    main()
