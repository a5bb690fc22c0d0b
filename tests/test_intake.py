"""The order in which a master handles what comes."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import ExitStack
from typing import Any, cast

import numpy as np
import pytest

from tests.support import DEADLINE_S, Peer, serving
from zmqdist.core.messages import IN_LINE, Finish, Heartbeat, Message, Pull, Push
from zmqdist.core.report import Totals
from zmqdist.intake import LONG_BYTES, PASSES, Intake
from zmqdist.net.transport import Envelope, MasterSockets
from zmqdist.publisher import Publisher
from zmqdist.wire.frames import pack

LONG = bytes(LONG_BYTES)


class Sockets:
    """Messages that wait."""

    def __init__(self) -> None:
        self.waiting: deque[Envelope] = deque()

    def receive(self) -> Envelope | None:
        return self.waiting.popleft() if self.waiting else None


class Intakes:
    """An intake, and what it makes of messages."""

    def __init__(self) -> None:
        self.sockets, self.totals = Sockets(), Totals()
        self.intake = Intake(
            cast(MasterSockets, self.sockets),
            self.totals,
            max_update_bytes=1 << 30,
            model_bytes=LONG_BYTES,
        )

    def comes(self, peer: bytes, message: Message, *frames: bytes) -> None:
        frames = (*map(bytes, pack(message)), *frames)
        self.sockets.waiting.append(Envelope(peer, None, list(frames), False))

    def handled(self, most: int = 1000) -> list[tuple[bytes, Message]]:
        """Return what is handled, in order, until nothing waits."""
        found = []
        while len(found) < most and (arrived := self.intake.next()) is not None:
            found.append((arrived.peer, arrived.received.message))
        return found


@pytest.fixture
def intakes() -> Intakes:
    return Intakes()


def push(step: int = 0, clock: int = 0, session: int = 1) -> Push:
    return Push(session, step, 0, clock)


def test_short_messages_are_handled_as_they_come(intakes: Intakes) -> None:
    messages: list[tuple[bytes, Message]] = [
        (b"a", push(0)),
        (b"b", Heartbeat(2, 7)),
        (b"a", Heartbeat(1, 3)),
        (b"a", Pull(1, 0, part=1)),
        (b"a", push(1)),
    ]
    for message in messages:
        intakes.comes(*message)
    assert intakes.handled() == messages


@pytest.mark.parametrize(
    ("message", "frames"), [(push(), (LONG,)), (Pull(1, -1), ())], ids=["update", "whole model"]
)
def test_long_work_is_passed(intakes: Intakes, message: Message, frames: tuple[bytes]) -> None:
    for peer in (b"a", b"b"):
        intakes.comes(peer, message, *frames)
    intakes.comes(b"c", Heartbeat(3, 5))
    assert intakes.handled(1) == [(b"c", Heartbeat(3, 5))]
    assert len(intakes.intake) == 2
    assert intakes.handled() == [(b"a", message), (b"b", message)]
    assert len(intakes.intake) == 0


def test_a_question_about_a_small_model_is_short() -> None:
    intakes = Intakes()
    intakes.intake._model_bytes = LONG_BYTES - 1
    intakes.comes(b"a", Pull(1, -1))
    intakes.comes(b"b", Heartbeat(3, 5))
    assert intakes.handled() == [(b"a", Pull(1, -1)), (b"b", Heartbeat(3, 5))]


def test_long_work_gets_its_turn(intakes: Intakes) -> None:
    intakes.comes(b"a", push(), LONG)
    for number in range(3 * PASSES):
        intakes.comes(b"b", Heartbeat(2, number))
    kinds = [message.kind for _, message in intakes.handled()]
    assert kinds.index("push") == PASSES
    assert len(kinds) == 3 * PASSES + 1


def test_a_peer_does_not_pass_itself(intakes: Intakes) -> None:
    """But its heartbeats do, and their answers claim nothing of what was sent before."""
    intakes.comes(b"a", push(0), LONG)
    intakes.comes(b"a", push(1))
    intakes.comes(b"a", Heartbeat(1, 5))
    intakes.comes(b"a", Finish(1, 2))
    assert intakes.handled() == [
        (b"a", Heartbeat(1, IN_LINE)),
        (b"a", push(0)),
        (b"a", push(1)),
        (b"a", Finish(1, 2)),
    ]
    intakes.comes(b"a", Heartbeat(1, 6))  # nothing of it stands in line any more
    assert intakes.handled() == [(b"a", Heartbeat(1, 6))]


def test_what_is_sent_again_stands_in_line_once(intakes: Intakes) -> None:
    for _ in range(3):
        intakes.comes(b"a", push(0), LONG)
        intakes.comes(b"a", Pull(1, 4))
        intakes.comes(b"b", push(0), LONG)  # of another peer
    expected = [(b"a", push(0)), (b"a", Pull(1, 4)), (b"b", push(0))]
    assert intakes.handled() == expected
    assert intakes.totals.duplicates == 4


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (push(0), push(1)),
        (push(0), push(0, clock=1)),  # computed again
        (push(0), push(0, session=2)),
        (Pull(1, 4), Pull(1, -1)),  # asks for more
        (Pull(1, 4, 5), Pull(1, 4, 6)),
        (Pull(1, 4), Pull(1, 4, part=1)),
        (Pull(1, -1, start=0), Pull(1, -1, start=40)),
    ],
)
def test_what_is_not_the_same(intakes: Intakes, first: Message, then: Message) -> None:
    for message in (first, then):
        intakes.comes(b"a", message, *([LONG] if isinstance(message, Push) else []))
    assert [message for _, message in intakes.handled()] == [first, then]


def test_a_busy_master_answers_who_asks_whether_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many ask for a large model, and each answer takes until the test allows it."""
    allowed, begun = threading.Semaphore(0), threading.Semaphore(0)
    answer = Publisher.answer

    def slow(self: Publisher, *args: Any) -> None:
        begun.release()
        assert allowed.acquire(timeout=DEADLINE_S)
        answer(self, *args)

    monkeypatch.setattr(Publisher, "answer", slow)
    many = 20
    with ExitStack() as stack:
        master = stack.enter_context(serving({"w": np.zeros(LONG_BYTES // 8)}))
        stack.callback(allowed.release, 2 * many)  # the master cannot end before
        asks = stack.enter_context(Peer(master.address))
        peers = [stack.enter_context(Peer(master.address)) for _ in range(many)]
        for peer in peers:
            peer.send("pull", session=0, have=-1)
        assert begun.acquire(timeout=DEADLINE_S)
        asks.send("heartbeat", session=9, number=4)
        while not asks.socket.poll(100):
            allowed.release()
        assert asks.answer("rejoin")["session"] == 9
        assert master.state.totals.pulls <= many // 2
        allowed.release(many)
        for peer in peers:
            assert peer.answer("version")["version"] == 0


def test_workers_that_begin_together_get_one_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    encoded = Publisher._encoded

    def counted(self: Publisher, tree: Any) -> Any:
        made.append(1)
        return encoded(self, tree)

    monkeypatch.setattr(Publisher, "_encoded", counted)
    with serving({"w": np.zeros(1000)}) as master:
        for _ in range(3):
            with Peer(master.address) as peer:
                assert peer.ask("pull", "version", session=0, have=-1)["version"] == 0
        assert len(made) == 1
        with Peer(master.address) as peer:
            peer.ask("pull", "version", session=0, have=-1, keep_bits=4)  # other values
        assert len(made) == 2
