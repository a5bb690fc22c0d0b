"""Partitions of an RDD, in Spark tasks."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pyspark import InheritableThread, SparkContext, TaskContext

from zmqdist.engines.job import Job, run_task
from zmqdist.errors import ConfigError
from zmqdist.task import Summary


class RddEngine:
    """Runs each partition of an RDD as one task.

    Parameters
    ----------
    rdd : pyspark.RDD
        Its partitions must hold the same items in the same order at each attempt:
        true of files and of persisted data, not after a shuffle that is recomputed.

    Raises
    ------
    ConfigError
        If the RDD has no partitions, or its Spark was stopped.
    """

    def __init__(self, rdd: Any) -> None:
        self._rdd = rdd
        self._context: SparkContext = rdd.context
        if self._context._jsc is None:
            raise ConfigError(
                "Spark was stopped, and the RDD with it; start a session and make the RDD anew"
            )
        self._group = ""
        self.partitions: int = rdd.getNumPartitions()
        self.at_once = self.partitions  # if Spark has the cores
        if not self.partitions:
            raise ConfigError("the RDD is empty: it has no partitions; check the input path")

    def run(self, job: Job, missing: list[int]) -> list[Summary]:
        """Run these partitions as one Spark job in a job group of its own."""
        self._group = job.name
        self._context.setJobGroup(job.name, job.title, interruptOnCancel=False)
        mapped = self._rdd.mapPartitionsWithIndex(_Task(job))
        try:
            found: list[Summary] = self._context.runJob(mapped, list, missing)
        except Exception as error:
            lacks = re.search(r"ModuleNotFoundError: No module named '([\w.]+)'", str(error))
            if lacks is None or "zmqdist.errors." in str(error):  # ours says what to do
                raise
            raise ConfigError(
                f"the executors run {self._context.pythonExec}, which cannot import {lacks[1]!r}; "
                'on this machine, set os.environ["PYSPARK_PYTHON"] = sys.executable before Spark '
                "starts; on a cluster, install it for the Python there, zmqdist included"
            ) from error
        return found

    def cancel(self) -> None:
        """Cancel the job group."""
        if self._group:
            self._context.cancelJobGroup(self._group)

    def close(self) -> None:
        """Nothing is held."""

    def thread(self, target: Callable[[], None]) -> threading.Thread:
        """Return a thread with the caller's Spark properties (scheduler pool and such)."""
        thread: threading.Thread = InheritableThread(target=target, daemon=True)
        return thread


class _Task:
    """The closure that runs on the executors."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def __call__(self, partition: int, items: Iterable[Any]) -> Iterator[Summary]:
        context = TaskContext.get()
        attempt = context.taskAttemptId() if context is not None else 0
        yield run_task(self._job, partition, attempt, items)


def driver_host() -> str | None:
    """Return the running driver's address: loopback for ``local[N]``, else spark.driver.host."""
    context = SparkContext._active_spark_context
    if context is None:
        return None
    master = context.master or ""
    if master == "local" or master.startswith("local["):
        return "127.0.0.1"
    host: str | None = context.getConf().get("spark.driver.host")
    return host
