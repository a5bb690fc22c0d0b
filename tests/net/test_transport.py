"""The sockets themselves: who gets in, what is dropped, what stays quiet."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support import eventually, has_ipv6
from zmqdist.core.notices import BURST
from zmqdist.net.address import endpoint
from zmqdist.net.door import Roles
from zmqdist.net.security import ClientKeys, KeyPair, MasterKeys
from zmqdist.net.transport import MAX_FRAMES, ClientSockets, Envelope, MasterSockets


@contextmanager
def sockets(
    keys: MasterKeys | None = None, bind_host: str = "127.0.0.1"
) -> Iterator[MasterSockets]:
    made = MasterSockets(bind_host, "127.0.0.1", 0, 0, keys)
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


@pytest.mark.skipif(not has_ipv6(), reason="there is no IPv6 here")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_all_interfaces_are_those_of_ipv4_too(host: str) -> None:
    with (
        sockets(bind_host="::") as master,
        client(endpoint(host, master.port)) as worker,
    ):
        worker.send([b"head"])
        assert [bytes(frame) for frame in receive(master).frames] == [b"head"]


def test_a_peer_that_is_gone() -> None:
    with sockets() as master:
        with client(master.address) as worker:
            worker.send([b"head"])
            peer = receive(master).peer
        eventually(lambda: not master.send(peer, [b"x"]), "that the peer is gone")
        assert not master.send(b"never here", [b"x"])


def test_broadcasts() -> None:
    with sockets() as master, client(master.address) as worker:
        assert not master.subscribers
        worker.subscribe(master.publish_port, b"run")
        eventually(lambda: master.wait(0.05) or master.subscribers, "a subscription")
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


def hears(master: MasterSockets, worker: ClientSockets, text: bytes) -> None:
    """Broadcast `text` until `worker` has it: a broadcast may get lost."""

    def heard() -> bool:
        master.publish(b"run", [text])
        master.wait(0)
        worker.wait(0.05)
        frames = worker.receive()
        return frames is not None and bytes(frames[0]) == text

    eventually(heard, f"hears {text!r}")


def unheard(worker: ClientSockets) -> list[bytes]:
    """Return all that waits."""
    worker.wait(0.05)
    found = []
    while (frames := worker.receive()) is not None:
        found.append(bytes(frames[0]))
    return found


def test_a_subscription_under_a_withdrawn_key_hears_nothing_more() -> None:
    server, driver, old, new = (KeyPair.generate() for _ in range(4))
    with sockets(MasterKeys(server, driver.public)) as master:
        for key in (old, new):
            master.admit(key.public)
        keys = [ClientKeys(key, server.public) for key in (old, new)]
        with client(master.address, keys[0]) as gone, client(master.address, keys[1]) as here:
            for worker in (gone, here):
                worker.subscribe(master.publish_port, b"run")
            for worker in (gone, here):
                hears(master, worker, b"to both")
            master.dismiss(old.public)
            unheard(gone)
            for number in range(10):
                hears(master, here, b"to one: %d" % number)
            assert set(unheard(gone)) <= {b"to both"}
            master.admit(old.public)
            hears(master, gone, b"to both again")


def test_who_asks_for_all_topics_hears_none() -> None:
    server, driver, worker = (KeyPair.generate() for _ in range(3))
    with sockets(MasterKeys(server, driver.public)) as master:
        master.admit(worker.public)
        keys = ClientKeys(worker, server.public)
        with client(master.address, keys) as nosy, client(master.address, keys) as here:
            nosy.subscribe(master.publish_port, b"")
            here.subscribe(master.publish_port, b"run")
            eventually(lambda: master.wait(0.05) or master._subscribers == 2, "both subscribed")
            for number in range(10):
                hears(master, here, b"%d" % number)
            assert unheard(nosy) == []


@pytest.mark.parametrize(
    ("frames", "kept"),
    [([b"x"] * (MAX_FRAMES + 100), MAX_FRAMES), ([b"x" * 1000, b"y" * 1000, b"z" * 1000], 2)],
    ids=["frames", "bytes"],
)
def test_of_a_message_that_is_too_large_only_the_beginning_is_kept(
    frames: list[bytes], kept: int
) -> None:
    made = MasterSockets("127.0.0.1", "127.0.0.1", 0, 0, None, 100_000 if kept > 2 else 2500)
    try:
        with client(made.address) as worker:
            worker.send(frames)
            envelope = receive(made)
            assert envelope.too_large
            assert len(envelope.frames) == kept
            worker.send([b"next"])
            assert receive(made).frames == [b"next"]
    finally:
        made.close()


def test_one_who_is_known_comes_in_among_strangers() -> None:
    server, driver = KeyPair.generate(), KeyPair.generate()
    with sockets(MasterKeys(server, driver.public)) as master, ExitStack() as stack:
        for _ in range(20):
            keys = ClientKeys(KeyPair.generate(), server.public)
            stack.enter_context(client(master.address, keys)).send([b"stranger"])
        one = stack.enter_context(client(master.address, ClientKeys(driver, server.public)))
        one.send([b"friend"])
        envelope = receive(master)
        assert (envelope.role, bytes(envelope.frames[0])) == ("driver", b"friend")
        door = master._door
        assert door is not None
        eventually(lambda: door.turned_away == 20, "that all strangers were turned away")
        assert master.receive() is None


def test_strangers_are_logged_at_a_bounded_rate(caplog: pytest.LogCaptureFixture) -> None:
    door = Roles("known")
    with caplog.at_level(logging.WARNING):
        assert not any(door.callback("zmqdist", b"stranger") for _ in range(1000))
        assert door.callback("zmqdist", b"known")
    assert len(caplog.records) == BURST
    assert "stranger" not in caplog.text


def test_a_slow_subscriber_neither_slows_the_others_nor_fills_memory() -> None:
    """It never reads: the others hear on, and at most a few broadcasts wait for it."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    with sockets() as master, client(master.address) as slow, client(master.address) as here:
        for worker in (slow, here):
            worker.subscribe(master.publish_port, b"run")
        eventually(lambda: master.wait(0.05) or master._subscribers == 2, "both subscribed")
        for number in range(20):
            hears(master, here, b"%d" % number)
        before = resident()
        frames = [b"big", *(bytes(1 << 20) for _ in range(4))]
        heard = 0
        for _ in range(100):
            master.publish(b"run", frames)
            master.wait(0)
            here.wait(0.02)
            while here.receive() is not None:
                heard += 1
        assert heard > 20
        hears(master, here, b"the last")
        assert resident() - before < 100 << 20  # of 400 MB
