"""Who of the workers that share a replica listens to the master for all of them.

One of them, the receiver, is elected by a lock that the system takes from it when it
dies. The others look at the replica, and ask the master themselves only when the
receiver cannot be expected to bring what they need.
"""

from __future__ import annotations

from dataclasses import dataclass

PATIENCE_S = 1.0
"""How long a published version may take to arrive in a shared replica, in seconds."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a shared replica shows to a worker that looks at it.

    Attributes
    ----------
    version, clock : int
        As in `zmqdist.core.freshness.Freshness`.
    torn : bool
        A worker died while it wrote: some rows are newer than `version` says.
    elected : bool
        This worker is the receiver.
    attended : bool
        There is a receiver, and it has shown itself lately.
    asking : bool
        The receiver waits for an answer about the whole model.
    """

    version: int
    clock: int
    torn: bool = False
    elected: bool = False
    attended: bool = False
    asking: bool = False


class Sharing:
    """One worker's part in it.

    Parameters
    ----------
    shared : bool
        Whether the replica is.
    receives : bool
        Whether this worker listens to broadcasts. Once it does, it goes on until its
        session ends: two that listen cost bytes and nothing else.

    Attributes
    ----------
    torn : bool
        Whether the replica was torn at the last look.
    """

    def __init__(self, *, shared: bool, receives: bool) -> None:
        self.receives = receives
        self._shared = shared
        self.torn = False
        self._asking = False
        self._waits_since: float | None = None

    def look(self, seen: Seen) -> bool:
        """Take in what the replica shows; whether this worker begins to receive."""
        self.torn, self._asking = seen.torn, seen.asking
        begins = not self.receives and (seen.elected or not seen.attended)
        self.receives |= begins
        return begins

    def patient(self, *, published: bool, now: float) -> bool:
        """Whether a worker that waits for a version leaves asking for it to the receiver.

        Parameters
        ----------
        published : bool
            The version was published, so that it is on its way to the receiver.
        now : float
            Clock reading, in seconds.
        """
        if self.receives or not self._shared or not published:
            return False
        if self._waits_since is None or self._asking:
            self._waits_since = now
        return now - self._waits_since < PATIENCE_S

    def satisfied(self) -> None:
        """Note that the worker has what it needs."""
        self._waits_since = None

    def alone(self) -> None:
        """Share no longer: the replica is this worker's own from now on."""
        self.receives, self.torn, self._shared = True, False, False
