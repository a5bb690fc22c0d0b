"""Partitions of a list, in worker processes on this machine; no Spark, no JVM.

Each worker is a fresh Python process that gets its work through a pipe (so no
``if __name__ == "__main__"`` is asked of the user, and functions of the user's
script travel by value) and runs the same code as a Spark task.
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import IO, Any, BinaryIO

from zmqdist.engines.job import Job
from zmqdist.engines.portions import portions
from zmqdist.errors import (
    ConfigError,
    MasterLost,
    MasterUnreachable,
    RemoteProtocolError,
    TrainError,
    ZmqdistError,
)
from zmqdist.options import check_kinds
from zmqdist.task import Summary

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 4
"""Attempts at a partition before the run is given up, as spark.task.maxFailures has it."""


class LocalEngine:
    """Runs partitions in local worker processes.

    Parameters
    ----------
    partitions : sequence of iterables
        Each is sent to the process that runs it, so it must be picklable.
    workers : int or None
        Processes; None takes one per core, at most one per partition.

    Raises
    ------
    ConfigError
        If there are no partitions or `workers` is below one.
    """

    def __init__(self, partitions: Sequence[Any], workers: int | None = None) -> None:
        if not len(partitions):
            raise ConfigError("train() got an empty list; expected at least one partition")
        check_kinds({"workers": workers})
        for index, part in enumerate(partitions):
            if isinstance(part, (str, bytes)) or not hasattr(part, "__iter__"):
                raise ConfigError(
                    f"partition {index} is a {type(part).__name__}; expected an iterable of items: "
                    "train() takes a list of partitions, [[item, item], [item]]"
                )
            if type(part).__name__ == "DataFrame":  # of pandas or another library
                raise ConfigError(
                    f"partition {index} is a DataFrame, whose items are its columns; pass its "
                    "rows, such as df.values or [*df.itertuples(index=False)]"
                )
        self._data = partitions
        self.partitions = len(partitions)
        count = workers if workers is not None else os.cpu_count() or 1
        self.at_once = min(count, len(partitions))
        self._workers = [_Process() for _ in range(self.at_once)]
        self._attempts = 0
        self._lock = threading.Lock()
        self._cancelled = False

    def run(self, job: Job, missing: list[int]) -> list[Summary]:
        """Run these partitions, as many at once as there are workers."""
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        for partition in missing:
            waiting.put(partition)
        found: list[Summary] = []
        errors: list[BaseException] = []
        failures: Counter[int] = Counter()

        def feed(process: _Process) -> None:
            while not errors and not self._cancelled:
                try:
                    partition = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    found.append(process.run(job, partition, self._attempt(), self._data))
                except WORTH_A_RETRY as death:
                    if self._cancelled:
                        return
                    failures[partition] += 1
                    log.warning("partition %d: %s", partition, death)
                    if failures[partition] >= MAX_ATTEMPTS:
                        often = f"partition {partition} failed {MAX_ATTEMPTS} times: {death}"
                        kind = type(death) if isinstance(death, ZmqdistError) else TrainError
                        errors.append(kind(often))
                    waiting.put(partition)
                except BaseException as error:
                    errors.append(error)
                    self.cancel()  # the run is over: do not wait for what the others compute

        # A worker that died hands its partition back after others may have found the
        # queue empty: go round until nothing waits.
        while not waiting.empty() and not errors and not self._cancelled:
            threads = [threading.Thread(target=feed, args=(p,)) for p in self._workers]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if errors:
            raise errors[0]
        if self._cancelled:
            raise TrainError("the local workers were cancelled")
        return found

    def cancel(self) -> None:
        """Kill the worker processes."""
        self._cancelled = True
        for process in self._workers:
            process.kill()

    def close(self) -> None:
        """End the worker processes."""
        self._cancelled = True
        for process in self._workers:
            process.close()

    def thread(self, target: Callable[[], None]) -> threading.Thread:
        """Return a thread, not started."""
        return threading.Thread(target=target, name="zmqdist-engine", daemon=True)

    def _attempt(self) -> int:
        with self._lock:
            self._attempts += 1
            return self._attempts


class _WorkerDied(Exception):
    """The worker process ended without an answer."""


WORTH_A_RETRY = (_WorkerDied, MasterLost, MasterUnreachable, RemoteProtocolError)
"""What may go well the next time: a death, a broken network, a damaged message."""


def _send(data: Iterable[Any], partition: int, orders: IO[bytes]) -> None:
    """Send a partition to a worker process.

    Raises
    ------
    ConfigError
        It cannot be pickled.
    """
    pieces = portions(data)
    octets: bytes | None = b""
    while octets is not None:
        try:
            octets = next(pieces, None)
        except Exception as error:
            raise ConfigError(
                f"partition {partition} cannot be sent to a worker process: {error}"
            ) from error
        pickle.dump(octets, orders, protocol=5)
        orders.flush()


class _Process:
    """One worker process, started when first needed and again when it died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: BinaryIO | None = None
        self._job = ""
        self._killed = False

    def run(self, job: Job, partition: int, attempt: int, data: Sequence[Any]) -> Summary:
        if self._process is None or self._process.poll() is not None:
            self._start()
        process, answers = self._process, self._answers
        if self._killed:
            raise _WorkerDied("the worker process was killed")
        if process is None or process.stdin is None or answers is None:
            raise _WorkerDied("the worker process could not be started")
        try:
            if self._job != job.name:
                pickle.dump(("job", job), process.stdin, protocol=5)
                self._job = job.name
            pickle.dump(("run", partition, attempt), process.stdin, protocol=5)
            _send(data[partition], partition, process.stdin)
            kind, answer = pickle.load(answers)  # noqa: S301 - a pipe from our own child
        except ConfigError:
            self.kill()  # it waits for the rest of the partition
            raise
        except (OSError, EOFError, pickle.UnpicklingError):
            code = process.wait()
            self.close()
            raise _WorkerDied(f"worker process {process.pid} ended with code {code}") from None
        if kind == "error":
            raise answer
        summary: Summary = answer
        return summary

    def _start(self) -> None:
        self.close()
        read_end, write_end = os.pipe()
        path = [entry or os.getcwd() for entry in sys.path]
        # Ctrl-C reaches the whole process group; until the worker ignores it, it is blocked.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", "zmqdist.engines.local_worker", str(write_end)],
                stdin=subprocess.PIPE,
                pass_fds=(write_end,),
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(write_end)
        self._answers = open(read_end, "rb")
        self._job = ""

    def kill(self) -> None:
        self._killed = True
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            try:
                if process.stdin is not None:
                    process.stdin.close()
            except OSError:
                pass
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._answers is not None:
            self._answers.close()
            self._answers = None
