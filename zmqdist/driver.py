"""The driver's side of the protocol: open an epoch, ask how it stands, close it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from zmqdist.core.messages import (
    Begin,
    Begun,
    End,
    Leave,
    Message,
    Pull,
    Refused,
    Report,
    Status,
    Version,
)
from zmqdist.errors import MasterLost, MasterUnreachable, RemoteProtocolError
from zmqdist.models.base import Parameters
from zmqdist.models.snapshot import Replica
from zmqdist.net.security import ClientKeys
from zmqdist.net.transport import ClientSockets
from zmqdist.wire.frames import Received, pack, unpack

Answer = TypeVar("Answer", bound=Message)


SILENT_S = 0.5
"""How often one who waits for an answer is told that there is none, in seconds."""

ASK_AGAIN_S = 2.0
"""After how long without an answer a question is repeated, in seconds."""


class Driver:
    """One connection of a driver to a master, in this process or elsewhere.

    Belongs to the thread that made it.

    Parameters
    ----------
    address : str
        ``tcp://host:port`` of the master.
    keys : ClientKeys or None
        The driver's keys; None talks plain TCP.
    connect_s : float, default=10.0
        Deadline of the first answer, in seconds.
    on_silence : callable (seconds: float), optional
        Called while an answer is waited for, with how long that has been; it may raise.
    """

    def __init__(
        self,
        address: str,
        keys: ClientKeys | None,
        connect_s: float = 10.0,
        on_silence: Callable[[float], None] | None = None,
    ) -> None:
        self.address = address
        self._on_silence = on_silence or (lambda seconds: None)
        self._sockets = ClientSockets(address, keys)
        self._answer_s = connect_s
        self._run = ""
        self._answered = False
        self._lost: MasterLost | MasterUnreachable | None = None

    def begin(self, partitions: int, worker_key: str, **plan: Any) -> Begun:
        """Open an epoch over so many partitions for workers that hold `worker_key`.

        Parameters
        ----------
        partitions, worker_key, **plan
            The fields of `zmqdist.core.messages.Begin`.

        Raises
        ------
        RemoteProtocolError
            It is refused, as the epoch was begun with data of another shape.
        """
        begun = self._ask(Begin(partitions, worker_key, **plan), Begun).message
        assert isinstance(begun, Begun)  # noqa: S101 - _ask has checked; tells the type checker
        self._answer_s = max(self._answer_s, begun.lease_s)
        self._run = begun.run
        return begun

    def status(self, epoch: int) -> Report:
        """Return how an epoch stands; this also tells the master that the driver lives."""
        report = self._ask(Status(self._run, epoch), Report).message
        assert isinstance(report, Report)  # noqa: S101 - as above
        return report

    def end(self, epoch: int, reason: str = "") -> Report:
        """Close an epoch and return how it stood: late updates of it are refused."""
        return self._end(End(self._run, epoch, reason))

    def over(self, epoch: int, incarnation: int) -> Report:
        """Say that the `train()` of an epoch returns: the master writes a checkpoint.

        Nothing of that if it is another incarnation now, as the report says then.
        """
        return self._end(End(self._run, epoch, over=True, incarnation=incarnation))

    def _end(self, end: End) -> Report:
        report = self._ask(end, Report).message
        assert isinstance(report, Report)  # noqa: S101 - as above
        return report

    def leave(self, run: str, program: str) -> None:
        """Say that the program is at its end."""
        self._ask(Leave(run, program), Report)

    def pull(self, replica: Replica, version: int) -> str:
        """Bring a replica up to what is published, at least `version`; return the run."""
        received = self._ask(Pull(0, replica.version, version), Version)
        message = received.message
        assert isinstance(message, Version)  # noqa: S101 - as above
        if message.incarnation != replica.incarnation:  # what it holds is of an earlier life
            again, replica.version = replica.version >= 0, -1
            replica.incarnation = message.incarnation
            if again:
                return self.pull(replica, version)
        assert isinstance(received.message, Version)  # noqa: S101 - as above
        replica.load(received.message.version, received.decode(replica.max_bytes))
        return received.message.run

    def fetch(self, parameters: Parameters, version: int) -> int:
        """Load the master's model, at least as of `version`; return its version."""
        replica = Replica(parameters.schema())
        self.pull(replica, version)
        parameters.load(replica.arrays, replica.scalars)
        return replica.version

    def close(self) -> None:
        """Close the sockets."""
        self._sockets.close()

    def _ask(self, message: Message, expected: type[Answer]) -> Received:
        if self._lost is not None:
            raise self._lost
        while self._sockets.receive() is not None:
            pass  # second answers to what was asked twice
        now = time.monotonic()
        asked, until, again = now, now + self._answer_s, now
        while now < until:
            if now >= again:
                self._sockets.send(pack(message))
                again = now + ASK_AGAIN_S  # a broken connection loses messages
            self._sockets.wait(min(until, again, now + SILENT_S) - now)
            now = time.monotonic()
            frames = self._sockets.receive()
            if frames is None:
                self._on_silence(now - asked)
                continue
            received = unpack(frames)
            self._answered = True
            if isinstance(received.message, Refused):
                raise RemoteProtocolError(f"the master refused: {received.message.reason}")
            if isinstance(received.message, expected):
                return received
        self._lost = self._silence()
        raise self._lost

    def _silence(self) -> MasterLost | MasterUnreachable:
        if self._answered:
            return MasterLost(
                f"the master at {self.address} has not answered for {self._answer_s:.0f} s: it "
                "ended or hangs. If descent() takes that long, raise lease_s="
            )
        return MasterUnreachable(
            f"no answer from the master at {self.address} within {self._answer_s:.0f} s: "
            f"{self._sockets.stage()}. Check that zmqdist-master runs there, that master= names "
            "its --host and --port, and that keys= is its key file"
        )
