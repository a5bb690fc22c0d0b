"""The actions that `MasterState` asks for, and what it counts and keeps of an epoch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from zmqdist.core.ledger import Key
from zmqdist.core.messages import Message, Push
from zmqdist.core.sessions import Session


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message without arrays to a peer."""

    peer: bytes
    message: Message


@dataclass(frozen=True, slots=True)
class Apply:
    """Decode the update of the message just received, multiply by `scale`, descend."""

    key: Key
    session: Session
    push: Push
    tau: int
    scale: float


@dataclass(frozen=True, slots=True)
class Publish:
    """Take a snapshot of the model as the current version and broadcast the change."""


@dataclass(frozen=True, slots=True)
class SendSnapshot:
    """Answer a pull from the snapshot: all that changed since version `have`."""

    peer: bytes
    have: int


@dataclass(frozen=True, slots=True)
class Admit:
    """Let connections with this public key in as workers of `epoch`."""

    key: str


@dataclass(frozen=True, slots=True)
class Dismiss:
    """Let nobody in with this public key any more."""

    key: str


Action = Send | Apply | Publish | SendSnapshot | Admit | Dismiss


@dataclass(slots=True)
class Totals:
    """Counters since the run began; all only grow."""

    applied: int = 0
    rejected: int = 0
    requeued: int = 0
    duplicates: int = 0
    skipped: int = 0
    failed: int = 0
    refused: int = 0
    examples: int = 0
    sessions: int = 0
    evicted: int = 0
    rejected_tau: int = 0
    bytes_received: int = 0
    bytes_received_decoded: int = 0
    bytes_published: int = 0
    bytes_published_decoded: int = 0
    publications: int = 0
    pulls: int = 0


@dataclass(slots=True)
class Epoch:
    """What the master keeps of an epoch besides its standings.

    `missing` are the partitions that were not complete when the epoch was closed.
    """

    worker_key: str
    last_seen: float
    missing: list[int] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    fatal: dict[str, Any] | None = None


def failure(
    what: str, error: str, partition: int = -1, step: int = -1, traceback: str = ""
) -> dict[str, Any]:
    """Return a failure as it stands in a `Report`; -1 where it has no one place."""
    return {
        "what": what,
        "partition": partition,
        "step": step,
        "error": error,
        "traceback": traceback,
    }
