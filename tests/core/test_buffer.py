"""SoftSync's buffer: what makes a flush, and what becomes of updates that wait in it."""

from __future__ import annotations

from typing import Any

import pytest

from zmqdist.core.actions import Action, Apply, Flush, Send
from zmqdist.core.buffer import Buffer
from zmqdist.core.ledger import Key, Outcome
from zmqdist.core.master_state import MasterState
from zmqdist.core.messages import Ack, Begin, End, Finish, Hello, Message, Push
from zmqdist.core.sessions import Session
from zmqdist.errors import ConfigError
from zmqdist.staleness import (
    Asynchronous,
    BulkSynchronous,
    Policy,
    SoftSync,
    default_policy,
    parse_policy,
)

LEASE_S = 8.0
TIMEOUT_S = 3.0


@pytest.mark.parametrize(
    ("n", "sizes"),
    [
        (1, {0: 1, 1: 1, 2: 2, 3: 3, 8: 8, 30: 30}),
        (2, {0: 1, 1: 1, 2: 1, 3: 1, 4: 2, 5: 2, 8: 4, 30: 15}),
        (3, {2: 1, 3: 1, 5: 1, 6: 2, 8: 2, 9: 3}),
        (30, {1: 1, 29: 1, 30: 1, 60: 2}),
    ],
)
def test_flush_size_is_the_floor_of_workers_by_n(n: int, sizes: dict[int, int]) -> None:
    assert {workers: SoftSync(n).flush_size(workers) for workers in sizes} == sizes


def test_which_policies_buffer() -> None:
    assert SoftSync().buffers
    assert SoftSync(2, timeout_s=0.5).flush_after_s == 0.5
    assert not default_policy().buffers
    assert not Asynchronous().buffers
    assert parse_policy("softsync:3") == SoftSync(3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "SoftSync: n is 0; expected an integer >= 1"),
        ({"n": -1}, "n is -1; expected an integer"),
        ({"n": 1.5}, "n is 1.5; expected an integer"),
        ({"timeout_s": 0}, "timeout_s is 0; expected seconds > 0"),
        ({"timeout_s": float("nan")}, "timeout_s is nan; expected seconds > 0"),
    ],
    ids=str,
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SoftSync(**options)


@pytest.mark.parametrize(
    "text", ["softsync", "softsync:0", "softsync:x", "softsync:1:0", "softsync:1:2:3"]
)
def test_what_the_command_line_refuses(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_policy(text)


# ---- the buffer alone ---------------------------------------------------------------------


def update(step: int) -> Apply:
    session = Session(1, b"w", 0, 0, 1, "w", 0, 0.0)
    return Apply(Key(0, 0, step), session, Push(1, step, 0), 0, 1.0)


def test_the_order_of_arrival_is_kept() -> None:
    buffer = Buffer(SoftSync(1, TIMEOUT_S))
    updates = [update(step) for step in (2, 0, 1)]
    for one in updates:
        assert buffer.flush(3) == []
        buffer.add(one, 0.0)
    assert buffer.flush(3) == [Flush(tuple(updates))]
    assert buffer.flush(0, 1e9) == []


def test_the_oldest_update_sets_the_deadline_anew_after_each_flush() -> None:
    buffer = Buffer(SoftSync(1, TIMEOUT_S))
    buffer.add(update(0), 10.0)
    buffer.add(update(1), 12.9)
    assert buffer.flush(9, 12.9) == []
    (flush,) = buffer.flush(9, 13.0)
    assert len(flush.updates) == 2
    buffer.add(update(2), 20.0)
    assert buffer.flush(9, 22.9) == []
    assert len(buffer.flush(9, 23.0)) == 1


# ---- within the master's state ------------------------------------------------------------


class Bench:
    """A master's state with one session per worker; flushes are collected and done."""

    def __init__(self, n: int, workers: int, policy: Policy | None = None) -> None:
        policy = policy or SoftSync(n, TIMEOUT_S)
        self.state = MasterState("run", policy, schema={}, lease_s=LEASE_S)
        self.now = 0.0
        self.flushed: list[int] = []
        self.sent: list[Message] = []
        self.ask(Begin(workers))
        self.sessions = []
        for worker in range(workers):
            self.ask(Hello("run", 0, worker, 1, "w"), b"%d" % worker)
            self.sessions.append(self.sent[-1].session)  # type: ignore[attr-defined]

    def ask(self, message: Message, peer: bytes = b"peer") -> None:
        self.perform(self.state.receive(peer, message, self.now))

    def perform(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Apply):
                self.perform(self.state.buffered(action, self.now))
            elif isinstance(action, Flush):
                self.flushed.append(len(action.updates))
                self.state.flushed(action)
            elif isinstance(action, Send):
                self.sent.append(action.message)

    def push(self, worker: int, step: int, base: int = 0) -> Ack:
        self.ask(Push(self.sessions[worker], step, base, examples=10), b"%d" % worker)
        acks = [m for m in self.sent if isinstance(m, Ack)]
        return acks[-1]

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.perform(self.state.tick(self.now))


@pytest.mark.parametrize(("n", "workers", "size"), [(1, 4, 4), (2, 4, 2), (2, 5, 2), (9, 4, 1)])
def test_flush_when_enough_are_there(n: int, workers: int, size: int) -> None:
    bench = Bench(n, workers)
    for step in range(size):  # one fast worker fills the buffer as well as many do
        assert bench.flushed == []
        bench.push(0, step)
    assert bench.flushed == [size]
    assert (bench.state.version, bench.state.totals.applied) == (1, size)
    assert bench.state.totals.examples == 10 * size


def test_a_step_is_settled_when_it_enters_the_buffer() -> None:
    bench = Bench(1, 3)
    ack = bench.push(0, 0)
    assert (ack.outcome, ack.version, ack.duplicate) == ("applied", 0, False)
    standing = bench.state.ledger.standing(0, 0)
    assert standing is not None
    assert standing.outcome(0) is Outcome.APPLIED
    assert bench.state.totals.applied == 0  # it counts when it is in the model
    assert bench.push(0, 0).duplicate
    assert bench.state.totals.settled == 1
    bench.push(1, 0)
    assert bench.flushed == []  # the duplicate does not wait beside the first
    bench.push(2, 0)
    assert bench.flushed == [3]


def test_staleness_counts_flushes() -> None:
    bench = Bench(2, 4)
    for step in range(3):
        bench.push(0, step)
        bench.push(1, step)
    assert bench.state.version == 3
    assert bench.state.staleness == {0: 2, 1: 2, 2: 2}


def test_flush_when_the_time_is_up() -> None:
    bench = Bench(1, 4)
    bench.push(0, 0)
    bench.tick(TIMEOUT_S - 0.1)
    bench.push(1, 0)
    assert bench.flushed == []
    bench.tick(0.1)
    assert bench.flushed == [2]
    bench.tick(TIMEOUT_S)
    assert bench.flushed == [2]


def test_flush_when_workers_leave() -> None:
    bench = Bench(1, 3)
    bench.push(0, 0)
    bench.push(1, 0)
    bench.ask(Finish(bench.sessions[0], 1), b"0")
    assert bench.flushed == [2]  # two workers are left, and two updates were there
    bench.push(1, 1)
    bench.ask(Finish(bench.sessions[1], 2), b"1")
    assert bench.flushed == [2, 1]
    bench.push(2, 0)
    assert bench.flushed == [2, 1, 1]


def test_flush_when_workers_fall_silent() -> None:
    bench = Bench(1, 3)
    bench.now = LEASE_S - 0.5
    bench.push(0, 0)
    bench.tick(1.0)
    assert bench.state.totals.evicted == 2
    assert bench.flushed == [1]


def test_the_end_of_an_epoch_flushes_what_waits() -> None:
    bench = Bench(1, 3)
    bench.push(0, 0)
    bench.ask(End("run", 0), b"driver")
    assert bench.flushed == [1]
    assert (bench.state.version, bench.state.totals.applied) == (1, 1)


def test_what_a_worker_leaves_behind_stands_for_no_other_workers() -> None:
    bench = Bench(1, 3, BulkSynchronous())
    bench.push(0, 0)
    bench.push(1, 0)
    bench.ask(Finish(bench.sessions[0], 1), b"0")
    assert bench.flushed == []  # two are waiting, but the second of two workers is not done
    bench.push(2, 0)
    assert bench.flushed == [3]
    bench.ask(Finish(bench.sessions[1], 1), b"1")
    bench.push(2, 1, 1)
    assert bench.flushed == [3, 1]
