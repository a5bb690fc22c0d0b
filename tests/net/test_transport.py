"""The sockets themselves: who gets in, what is dropped, what stays quiet."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support import eventually
from zmqdist.net.security import ClientKeys, KeyPair, MasterKeys
from zmqdist.net.transport import ClientSockets, Envelope, MasterSockets


@contextmanager
def sockets(keys: MasterKeys | None = None) -> Iterator[MasterSockets]:
    made = MasterSockets("127.0.0.1", "127.0.0.1", 0, 0, keys)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def client(address: str, keys: ClientKeys | None = None) -> Iterator[ClientSockets]:
    made = ClientSockets(address, keys)
    try:
        yield made
    finally:
        made.close(0)


def receive(master: MasterSockets) -> Envelope:
    def take() -> Envelope | None:
        master.wait(0.05)
        return master.receive()

    found: Envelope = eventually(take, "a message")
    return found


def test_there_and_back() -> None:
    with sockets() as master, client(master.address) as worker:
        worker.send([b"head", b"", b"x" * 100_000])
        envelope = receive(master)
        assert [bytes(frame) for frame in envelope.frames] == [b"head", b"", b"x" * 100_000]
        assert envelope.role is None
        assert master.send(envelope.peer, [b"answer"])
        frames = eventually(lambda: worker.wait(0.05) or worker.receive(), "an answer")
        assert [bytes(frame) for frame in frames] == [b"answer"]
        assert worker.receive() is None
        assert master.receive() is None


def test_a_peer_that_is_gone() -> None:
    with sockets() as master:
        with client(master.address) as worker:
            worker.send([b"head"])
            peer = receive(master).peer
        eventually(lambda: not master.send(peer, [b"x"]), "that the peer is gone")
        assert not master.send(b"never here", [b"x"])


def test_broadcasts() -> None:
    with sockets() as master, client(master.address) as worker:
        assert not master.subscribed
        worker.subscribe(master.publish_port, b"run")
        eventually(lambda: master.wait(0.05) or master.subscribed, "a subscription")
        master.publish(b"other run", [b"no"])
        master.publish(b"run", [b"head", b"tree"])
        frames = eventually(lambda: worker.wait(0.05) or worker.receive(), "a broadcast")
        assert [bytes(frame) for frame in frames] == [b"head", b"tree"]


def test_roles_by_key() -> None:
    server, driver, worker = (KeyPair.generate() for _ in range(3))
    with sockets(MasterKeys(server, driver.public)) as master:
        with client(master.address, ClientKeys(driver, server.public)) as one:
            one.send([b"x"])
            assert receive(master).role == "driver"
        master.admit(worker.public)
        with client(master.address, ClientKeys(worker, server.public)) as one:
            one.send([b"x"])
            assert receive(master).role == "worker"
            master.dismiss(worker.public)
            one.send([b"late"])
            with client(master.address, ClientKeys(driver, server.public)) as other:
                other.send([b"y"])
                assert receive(master).role == "driver"  # and nothing of the dismissed one
        master.admit(driver.public)
        master.dismiss(driver.public)  # the driver is no worker: it stays
        with client(master.address, ClientKeys(driver, server.public)) as one:
            one.send([b"z"])
            assert receive(master).role == "driver"


def test_wake() -> None:
    with sockets() as master, client(master.address) as worker:
        for one in (master, worker):
            for _ in range(3):
                one.wake()
            one.wait(60)
            one.wait(0)


def test_plain_tcp_off_loopback_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        MasterSockets("127.0.0.1", "127.0.0.1", 0, 0, None).close()
        assert caplog.text == ""
        MasterSockets("0.0.0.0", "10.0.0.1", 0, 0, None).close()  # noqa: S104
    assert "security='none': anyone who reaches 10.0.0.1" in caplog.text
