"""What the tests of sockets and processes share: workers in threads, peers, a bad network."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import zmq

from zmqdist.assignment import Assignment
from zmqdist.core.headers import from_header
from zmqdist.core.messages import PROTOCOL
from zmqdist.driver import Driver
from zmqdist.engines.job import Job, run_task
from zmqdist.master import Master
from zmqdist.options import MasterOptions
from zmqdist.worker import Summary, run_partition

DEADLINE_S = 20.0


def eventually(
    holds: Callable[[], Any], what: str | Callable[[], str], seconds: float = DEADLINE_S
) -> Any:
    """Wait until `holds()` is true and return what it returned."""
    until = time.monotonic() + seconds
    tick = threading.Event()
    while not (found := holds()):
        text = what() if callable(what) else what
        assert time.monotonic() < until, f"in {seconds:g} s never: {text}"
        tick.wait(0.01)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def has_ipv6() -> bool:
    """Whether this machine has IPv6: a container may be without."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def worker_processes() -> list[int]:
    """Return the local workers that this process started and that still are there."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_text()
        except OSError:
            continue
        if parent == os.getpid() and "zmqdist.engines.local_worker" in command:
            found.append(int(entry.name))
    return found


class ThreadEngine:
    """Runs partitions in threads of this process: the sockets are real, the rest is quick."""

    def __init__(self, data: Sequence[Any], workers: int | None = None) -> None:
        self._data = data
        self._workers = workers or 2
        self._attempts = 0
        self.partitions = len(data)
        self.at_once = min(self._workers, len(data))

    def run(self, job: Job, missing: list[int]) -> list[Summary]:
        first = self._attempts
        self._attempts += len(missing)

        def work(index: int) -> Summary:
            partition = missing[index]
            return run_task(job, partition, first + index, self._data[partition])

        with ThreadPoolExecutor(self._workers) as pool:
            return list(pool.map(work, range(len(missing))))

    def cancel(self) -> None: ...

    def close(self) -> None: ...

    def thread(self, target: Any) -> threading.Thread:
        return threading.Thread(target=target, name="zmqdist-engine", daemon=True)


class Running:
    """A function in a thread, its outcome to be asked for."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._outcome: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._outcome = self._function()
        except BaseException as error:
            self._error = error

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def join(self, seconds: float = DEADLINE_S) -> Any:
        self._thread.join(seconds)
        assert self.ended, f"still running after {seconds:g} s"
        if self._error is not None:
            raise self._error
        return self._outcome


@contextlib.contextmanager
def serving(model: Any, **options: Any) -> Iterator[Master]:
    """Run a master in a thread."""
    master = Master(model, MasterOptions(**options))
    master.start()
    try:
        yield master
    finally:
        master.stop()


@contextlib.contextmanager
def epoch(master: Master, partitions: int = 1) -> Iterator[Assignment]:
    """Open an epoch on a master without keys; yields what its workers are told."""
    driver = Driver(master.address, None)
    try:
        begun = driver.begin(partitions, "")
        schema = {name: (dtype, tuple(shape)) for name, (dtype, shape) in begun.schema.items()}
        yield Assignment(master.address, begun.run, begun.epoch, schema)
        if master.alive:
            driver.end(begun.epoch, "the test is over")
    finally:
        driver.close()


def work(
    assignment: Assignment,
    model: Any,
    gradient: Any,
    data: Any,
    partition: int = 0,
    attempt: int = 1,
) -> Summary:
    """Run one partition here."""
    return run_partition(
        assignment, model, gradient, partition=partition, attempt=attempt, data=data, worker="test"
    )


class Peer:
    """A DEALER that sends whatever it is told to."""

    def __init__(self, address: str) -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.connect(address)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy(linger=0)

    def send(self, kind: str, *frames: bytes, **fields: Any) -> None:
        header = {"zmqdist": PROTOCOL, "kind": kind, **fields}
        self.raw(json.dumps(header).encode(), *frames)

    def raw(self, *frames: bytes) -> None:
        self.socket.send_multipart(frames)

    def answer(self, kind: str, seconds: float = DEADLINE_S) -> dict[str, Any]:
        """Return the next answer of this kind, with all its fields; others are passed over."""
        until = time.monotonic() + seconds
        while self.socket.poll(max(0, round((until - time.monotonic()) * 1000))):
            header: dict[str, Any] = json.loads(self.socket.recv_multipart()[0])
            if header["kind"] == kind:
                message = from_header(header)
                return {f.name: getattr(message, f.name) for f in fields(message)} | header
        raise AssertionError(f"no {kind} in {seconds:g} s")

    def ask(self, kind: str, expected: str, *frames: bytes, **fields: Any) -> dict[str, Any]:
        self.send(kind, *frames, **fields)
        return self.answer(expected)


class Proxy:
    """A TCP proxy that can be cut or stalled: the bad network between worker and master."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.accepted = self.swallowed = 0
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._orders: list[str] = []
        self._stalled = False
        self._wake_in, self._wake_out = socket.socketpair()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._order("close")
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), "the proxy does not end"

    def cut(self) -> None:
        """Break every connection; new ones are let through."""
        self._order("cut")

    def stall(self) -> None:
        """Swallow everything, on connections old and new."""
        self._order("stall")

    def heal(self) -> None:
        """Break what was stalled and let new connections through."""
        self._order("heal")

    def _order(self, order: str) -> None:
        self._orders.append(order)
        self._wake_in.send(b"!")

    def _run(self) -> None:
        try:
            while self._serve():
                pass
        finally:
            self._drop_all()
            for one in (self._listener, self._wake_in, self._wake_out):
                one.close()

    def _serve(self) -> bool:
        ready, _, _ = select.select([self._wake_out, self._listener, *self._pairs], [], [])
        for one in ready:
            if one is self._wake_out:
                self._wake_out.recv(1)
                order = self._orders.pop(0)
                if order == "close":
                    return False
                self._stalled = order == "stall"
                if order in ("cut", "heal"):
                    self._drop_all()
                return True
            if one is self._listener:
                self._accept()
            elif one in self._pairs:
                self._forward(one)
        return True

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        try:
            far = socket.create_connection(self._target, timeout=DEADLINE_S)
        except OSError:
            near.close()
            return
        self.accepted += 1
        self._pairs[near], self._pairs[far] = far, near

    def _forward(self, one: socket.socket) -> None:
        try:
            octets = one.recv(1 << 16)
            if self._stalled:
                self.swallowed += len(octets)
            elif octets:
                self._pairs[one].sendall(octets)
        except OSError:
            octets = b""
        if not octets:
            other = self._pairs.pop(one)
            del self._pairs[other]
            one.close()
            other.close()

    def _drop_all(self) -> None:
        for one in self._pairs:
            one.close()
        self._pairs.clear()
