"""A standalone cluster of two workers, on 127.0.0.1 and 127.0.0.2, for the programs beside."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import cloudpickle
import pyspark
from pyspark.sql import SparkSession


def wait_for(condition, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError("nobody came")
        threading.Event().wait(0.02)
    return value


def descent(model, update):
    model["n"] += update["n"]


def run(train):
    """Train on a cluster in the folder that the command line names; print what is returned."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # executors cannot import it
    folder = Path(sys.argv[1])
    spark = Cluster(folder)
    try:
        sys.stdout.write(json.dumps(train(spark.url, folder)) + "\n")
    finally:
        spark.stop()


def session(url, **options):
    """Return a session of executors with one core each; options without their ``spark.``."""
    made = (
        SparkSession.builder.master(url)
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.executor.memory", "512m")
        .config("spark.executor.cores", "1")
    )
    for name, value in options.items():
        made = made.config("spark." + name.replace("_", "."), value)
    spark = made.getOrCreate()
    spark.sparkContext.setLogLevel("OFF")
    return spark


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
