"""Kills Python workers and executors under a training on local-cluster[2,1,1024].

Usage: failures.py FOLDER. Prints one JSON line: for each scenario the result of the
training, and the attempts that its tasks noted in FOLDER.
"""

import json
import math
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyspark
from pyspark import TaskContext
from pyspark.sql import SparkSession

from zmqdist import ZmqDist

SIZE = 5  # items per batch


def gradient_of(folder, act):
    """Return a gradient that notes who computes what, then lets `act` do harm."""

    def gradient(model, items):
        task = TaskContext.get()
        me = (task.partitionId(), task.attemptNumber(), task.taskAttemptId())
        noted = "{}-{}-{}.".format(*me)
        step = sum(name.startswith(noted) for name in os.listdir(folder))
        Path(folder, f"{noted}{step}").touch()
        act(me, step)
        return {"n": 1}

    return gradient


def once(folder, what):
    """Whether this is the first call with `what`, over all processes."""
    try:
        os.close(os.open(os.path.join(folder, f"once.{what}"), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def wait_for(condition, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("nobody came")
        threading.Event().wait(0.01)


def executor_jvm():
    """Pid of the executor that this task belongs to: its daemon's parent."""
    daemon = os.getppid()
    jvm = int(Path(f"/proc/{daemon}/stat").read_text().rsplit(")", 1)[1].split()[1])
    assert "CoarseGrainedExecutorBackend" in Path(f"/proc/{jvm}/cmdline").read_text()
    return jvm


def killed_worker(folder):
    """In mid-partition 1, with one update under way; twice in partition 2."""

    def act(me, step):
        partition, attempt, _ = me
        if (partition, attempt, step) in {(1, 0, 3), (2, 0, 0), (2, 1, 4)}:
            os.kill(os.getpid(), signal.SIGKILL)

    return gradient_of(folder, act)


def killed_executor(folder):
    """The Python worker outlives its executor for a moment and goes on sending."""

    def act(me, step):
        partition, attempt, _ = me
        if (partition, attempt, step) == (1, 0, 3):
            os.kill(executor_jvm(), signal.SIGKILL)
        elif (partition, attempt) == (1, 0) and step > 3:
            threading.Event().wait(0.5 * (step - 4))

    return gradient_of(folder, act)


def lost_shuffle(folder):
    """The stage runs again while partition 0 of its first attempt still computes.

    Both copies of partition 0 have attemptNumber 0. The second goes ahead by two steps
    before the first sends anything more, and ends only after the first has sent one.
    """

    def noted(tid, step):
        return os.path.exists(os.path.join(folder, f"0-0-{tid}.{step}"))

    def tids():
        return {int(n.split("-")[2].split(".")[0]) for n in os.listdir(folder) if n[:4] == "0-0-"}

    def act(me, step):
        partition, attempt, tid = me
        if (partition, attempt, step) == (1, 0, 2) and once(folder, "kill"):
            wait_for(lambda: any(noted(other, 2) for other in tids()))
            os.kill(executor_jvm(), signal.SIGKILL)
            wait_for(lambda: False)  # until the death of the executor ends this process, too
        if (partition, attempt) != (0, 0):
            return
        if tid == min(tids()):
            if step == 2:
                wait_for(lambda: any(noted(other, 2) for other in tids() - {tid}))
        elif step == 3:
            wait_for(lambda: noted(min(tids()), 4))

    return gradient_of(folder, act)


def shuffled(sc):
    """Return an RDD of four partitions whose shuffle files both executors hold a part of."""
    folder = os.path.join(sys.argv[1], "daemons")
    os.mkdir(folder)

    def together(items):
        Path(folder, str(os.getppid())).touch()
        wait_for(lambda: len(os.listdir(folder)) >= 2)
        return [(n, n) for n in items]

    return sc.parallelize(range(160), 4).mapPartitions(together).partitionBy(4)


def train(sc, name, rdd, make):
    folder = os.path.join(sys.argv[1], name)
    os.mkdir(folder)
    sizes = rdd.glom().map(len).collect()
    started = time.monotonic()

    def descent(model, update):
        model["n"] += update["n"]

    with ZmqDist({"n": np.zeros(1)}, max_in_flight=1) as dd:
        result = dd.train(rdd, make(folder), descent, batch_size=SIZE, epochs=1)
        counted = int(dd.model["n"][0])
    attempts = {n.split(".")[0] for n in os.listdir(folder) if n[0] != "o"}
    return {
        "batches": sum(math.ceil(n / SIZE) for n in sizes),
        "partitions": len(sizes),
        "counted": counted,
        "version": result.version,
        "applied": result.applied,
        "duplicates": result.duplicates,
        "sessions": result.sessions,
        "failed": result.failed,
        "attempts": sorted([int(n) for n in attempt.split("-")] for attempt in attempts),
        "seconds": round(time.monotonic() - started, 1),
    }


def main():
    spark = (
        SparkSession.builder.master("local-cluster[2,1,1024]")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.executor.memory", "512m")
        .config("spark.shuffle.io.maxRetries", "1")  # a lost executor is not waited for
        .config("spark.shuffle.io.retryWait", "1s")
        .getOrCreate()
    )
    sc = spark.sparkContext
    sc.setLogLevel("OFF")
    text = Path(sys.argv[1], "lines.txt")
    text.write_text("".join(f"line {n:4}\n" for n in range(160)))
    lines = sc.textFile(text.as_uri(), 4)
    answer = {
        "worker": train(sc, "worker", lines, killed_worker),
        "executor": train(sc, "executor", lines, killed_executor),
    }
    answer["shuffle"] = train(sc, "shuffle", shuffled(sc), lost_shuffle)
    # local-cluster keeps the logs of its executors where Spark is installed.
    logs = Path(pyspark.__file__).parent / "work" / sc.applicationId
    spark.stop()
    shutil.rmtree(logs, ignore_errors=True)
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
