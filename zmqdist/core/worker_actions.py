"""The actions that `WorkerState` asks for."""

from __future__ import annotations

from dataclasses import dataclass

from zmqdist.core.messages import Message, Pull, Push


@dataclass(frozen=True, slots=True)
class SendToMaster:
    """Send a message without arrays."""

    message: Message


@dataclass(frozen=True, slots=True)
class SendUpdate:
    """Send this push with the encoded update kept for its step."""

    push: Push


@dataclass(frozen=True, slots=True)
class Forget:
    """The update kept for this step is not needed any more; it was applied or not.

    Not either if the step was settled by another attempt's update. One that was sent
    twice counts as applied: its first acknowledgement was lost.
    """

    step: int
    applied: bool = True


@dataclass(frozen=True, slots=True)
class Load:
    """Decode the version just received; `part` says which part of the model it is.

    After one that is a `piece` the replica holds no version yet.
    """

    version: int
    part: int = 0
    piece: bool = False


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Listen to broadcasts on this port of the master's host."""

    port: int


@dataclass(frozen=True, slots=True)
class SendPull:
    """Send this question with the rows that its part names."""

    pull: Pull


@dataclass(frozen=True, slots=True)
class Renew:
    """What the replica holds is of an earlier incarnation: share no other's of that any more."""

    incarnation: int


Action = SendToMaster | SendUpdate | Forget | Load | Subscribe | SendPull | Renew
