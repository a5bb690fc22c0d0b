"""Trains until it is interrupted from outside, then trains again in the same session.

Usage: interrupt.py FOLDER. The tasks note their process there as pid.N and touch `beat`
at each step. Prints one JSON line.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
from pyspark.sql import SparkSession

from zmqdist import ZmqDist


def endless(model, items):
    Path(folder, f"pid.{os.getpid()}").touch()
    for _ in items:
        threading.Event().wait(0.02)
        Path(folder, "beat").touch()
        yield {"n": 1}


def one(model, items):
    return {"n": 1}


def descent(model, update):
    model["n"] += update["n"]


def wait_for(condition, timeout_s):
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    return condition()


def main():
    spark = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.host", "127.0.0.1")
        .getOrCreate()
    )
    sc = spark.sparkContext
    sc.setLogLevel("OFF")
    answer = {"raised": None}
    with ZmqDist({"n": np.zeros(1)}) as dd:
        try:
            dd.train(sc.parallelize(range(1_000_000), 5), endless, descent)
        except KeyboardInterrupt:
            answer["raised"] = time.time()
        version = dd.version
        answer["counts"] = dd.model["n"].tolist() == [version]
        answer["job ended"] = wait_for(lambda: not sc.statusTracker().getActiveJobsIds(), 10)
        again = dd.train(sc.parallelize(range(20), 4), one, descent, batch_size=1)
        answer["again"] = again.applied
        answer["counts again"] = dd.model["n"].tolist() == [version + 20] == [dd.version]
        answer["last beat"] = Path(folder, "beat").stat().st_mtime
        answer["seconds"] = again.seconds
    answer["threads"] = sorted(t.name for t in threading.enumerate() if "zmqdist" in t.name)
    spark.stop()
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    folder = sys.argv[1]
    main()
