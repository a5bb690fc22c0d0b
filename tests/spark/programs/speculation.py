"""Speculation on a standalone cluster of two workers, on 127.0.0.1 and 127.0.0.2.

Spark puts no speculative copy on the host of the running attempt, hence two hosts.
Usage: speculation.py FOLDER. Prints one JSON line.
"""

import json
import math
import os
import re
import subprocess
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


def wait_for(condition, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError("nobody came")
        threading.Event().wait(0.02)
    return value


class Cluster:
    """A standalone master and two workers; `url` is for the session."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.processes = []
        log = self.start("master", "master.Master", "--host", "127.0.0.1", "--port", "0")
        self.url = wait_for(lambda: find(log, r"spark://127\.0\.0\.1:\d+"))
        for n in (1, 2):
            cores = ("--cores", "2", "--memory", "1g", "-d", str(self.folder / f"work{n}"))
            self.start(f"worker{n}", "worker.Worker", "--host", f"127.0.0.{n}", *cores, self.url)
        wait_for(lambda: len(re.findall("Registering worker", log.read_text())) == 2)

    def start(self, name, kind, *arguments):
        log = self.folder / f"{name}.log"
        home = Path(pyspark.__file__).parent
        command = [str(home / "bin" / "spark-class"), f"org.apache.spark.deploy.{kind}"]
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*command, *arguments[:2], "--webui-port", "0", *arguments[2:]],
                stdout=out,
                stderr=out,
                env={
                    **os.environ,
                    "SPARK_HOME": str(home),
                    "SPARK_DAEMON_MEMORY": "256m",
                    "SPARK_DAEMON_JAVA_OPTS": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1",
                },
            )
        self.processes.append(process)
        return log

    def stop(self):
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            process.wait(20)


def find(log, pattern):
    found = re.search(pattern, log.read_text())
    return found and found.group()


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
    folder = Path(sys.argv[1])
    cluster = Cluster(folder)
    try:
        sys.stdout.write(json.dumps(speculate(cluster.url, folder)) + "\n")
    finally:
        cluster.stop()


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
