"""What every engine gets to run, and the function that runs it in a worker process."""

from __future__ import annotations

import gc
import os
import socket
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from zmqdist.assignment import Assignment
from zmqdist.models.structure import load_structure
from zmqdist.task import Summary
from zmqdist.worker import run_partition


@dataclass(frozen=True)
class Job:
    """One epoch's work: where the master is, and the structure of model and gradient.

    Attributes
    ----------
    name : str
        Unique name, for Spark's job group.
    title : str
        For people.
    payload : bytes
        `zmqdist.models.structure.dump_structure` of the model and the gradient.
    references : tuple
        Broadcast variables in it: Spark brings what it finds in the closure.
    """

    name: str
    title: str
    assignment: Assignment
    payload: bytes = field(repr=False)
    references: tuple[Any, ...] = ()


class Engine(Protocol):
    """Where partitions run.

    Attributes
    ----------
    partitions : int
        How many there are.
    at_once : int
        How many may run at the same time.
    """

    partitions: int
    at_once: int

    def run(self, job: Job, missing: list[int]) -> list[Summary]:
        """Run these partitions; returns when all tasks have ended.

        Raises
        ------
        Exception
            When a task failed for good.
        """
        ...

    def cancel(self) -> None:
        """Make `run` return soon by force; for another thread."""
        ...

    def close(self) -> None:
        """Give back what the engine holds."""
        ...

    def thread(self, target: Any) -> threading.Thread:
        """Return a thread, not started, in which `run` may be called."""
        ...


def run_task(job: Job, partition: int, attempt: int, data: Iterable[Any]) -> Summary:
    """Run one partition in this process."""
    model, gradient = _structure(job.payload)
    return run_partition(
        job.assignment,
        model,
        gradient,
        partition=partition,
        attempt=attempt,
        data=data,
        worker=f"{socket.gethostname()}:{os.getpid()}",
    )


class _Loaded(threading.local):
    """Of each thread its own: two tasks never train one model."""

    payload = b""
    parts: tuple[Any, ...] = ()
    times = 0


_loaded = _Loaded()


def _structure(payload: bytes) -> tuple[Any, ...]:
    """Load model and gradient, once for all partitions that this thread runs in a row.

    A vocabulary takes longer to unpickle than a small partition to train. And Spark collects
    garbage after each task, which would look through all modules and that vocabulary each time:
    what is there when the second partition begins is left out from then on.
    """
    if _loaded.payload != payload:
        gc.unfreeze()
        _loaded.payload, _loaded.parts = payload, load_structure(payload)
        _loaded.times = 0
    _loaded.times += 1
    if _loaded.times == 2:
        gc.freeze()
    return _loaded.parts
