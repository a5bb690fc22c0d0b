"""What every test may rely on: nothing is left behind, and no time is wasted."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from hypothesis import settings

from tests.support import ThreadEngine, eventually, worker_processes

settings.register_profile("no deadline", deadline=None)  # a busy machine is no failure
settings.load_profile("no deadline")


@pytest.fixture(scope="session", autouse=True)
def zmq_garbage_thread() -> None:
    """Start the one thread that pyzmq keeps for large messages: it is no leak."""
    with zmq.Context() as context, context.socket(zmq.PAIR) as a, context.socket(zmq.PAIR) as b:
        a.bind("inproc://large")
        b.connect("inproc://large")
        a.send(bytes(1 << 20), copy=False)
        b.recv()


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves worker processes, threads or sockets."""
    if "spark" in request.keywords:
        yield
        return
    before = _handles()
    yield
    eventually(lambda: not _left_threads(), lambda: f"threads left: {_left_threads()}")
    eventually(lambda: not worker_processes(), lambda: f"processes left: {worker_processes()}")
    eventually(lambda: _handles() <= before, lambda: f"{before} sockets before, {_handles()} after")


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the partitions of a list in threads: real sockets, no start of processes."""
    monkeypatch.setattr("zmqdist.api.engine_for", ThreadEngine)


def _left_threads() -> list[str]:
    ours = ("zmqdist", "AuthenticationThread")
    found = [f"{type(thread).__name__} {thread.name}" for thread in threading.enumerate()]
    return [text for text in found if any(name in text for name in ours)]


def _handles() -> int:
    """Count this process's sockets and zmq's own handles."""
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(entry)
        except OSError:
            continue
        count += target.startswith("socket:") or "eventfd" in target or "eventpoll" in target
    return count
