"""The actions that `MasterState` asks for, and what it counts and keeps of an epoch."""

from __future__ import annotations

from dataclasses import dataclass

from zmqdist.core.ledger import Key
from zmqdist.core.messages import Message, Pull, Push
from zmqdist.core.sessions import Session


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message without arrays to a peer."""

    peer: bytes
    message: Message


@dataclass(frozen=True, slots=True)
class Apply:
    """Decode the update of the message just received, multiply by `weight`, descend."""

    key: Key
    session: Session
    push: Push
    tau: int
    weight: float


@dataclass(frozen=True, slots=True)
class Flush:
    """Merge the updates that wait in the buffer, in this order, and descend once."""

    updates: tuple[Apply, ...]


@dataclass(frozen=True, slots=True)
class Publish:
    """Take a snapshot of the model as the current version and broadcast the change."""


@dataclass(frozen=True, slots=True)
class SendSnapshot:
    """Answer a pull, which a peer has just sent, from the snapshot."""

    peer: bytes
    pull: Pull


@dataclass(frozen=True, slots=True)
class Admit:
    """Let connections with this public key in as workers of `epoch`."""

    key: str


@dataclass(frozen=True, slots=True)
class Dismiss:
    """Let nobody in with this public key any more."""

    key: str


@dataclass(frozen=True, slots=True)
class Save:
    """Write a checkpoint of everything as it is now."""


@dataclass(frozen=True, slots=True)
class Note:
    """Note in the checkpoints' journal which epochs there are, before going on."""


Action = Send | Apply | Flush | Publish | SendSnapshot | Admit | Dismiss | Save | Note
