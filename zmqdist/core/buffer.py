"""The buffer of a policy that merges several updates into one version."""

from __future__ import annotations

from typing import Any

from zmqdist.core.actions import Apply, Flush
from zmqdist.core.headers import from_header, to_header
from zmqdist.core.ledger import Key
from zmqdist.core.messages import Push
from zmqdist.core.sessions import Session
from zmqdist.core.staleness import Policy
from zmqdist.errors import RemoteProtocolError


class Buffer:
    """Updates that are settled in the ledger and wait to be merged.

    Parameters
    ----------
    policy : Policy
        Says how many make a flush, and how long the oldest may wait.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._since: float | None = None
        self._waiting: list[Apply] = []

    def add(self, action: Apply, now: float) -> None:
        """Take in one more update."""
        self._since = now if self._since is None else self._since
        self._waiting.append(action)

    def flush(self, workers: int, now: float | None = None) -> list[Flush]:
        """Empty the buffer if there are enough for so many workers, or time is up.

        With no workers left nothing more can come, so that nothing is waited for.
        """
        after_s = self._policy.flush_after_s
        waited_s = now - self._since if now is not None and self._since is not None else 0.0
        late = after_s is not None and waited_s >= after_s
        if not self._waiting or not (late or self._enough(workers)):
            return []
        waiting, self._waiting, self._since = self._waiting, [], None
        return [Flush(tuple(waiting))]

    def state(self) -> list[Any]:
        """Return what waits, as JSON values: of each update all but its arrays."""
        return [[a.key, to_header(a.push), a.tau, a.weight] for a in self._waiting]

    def load_state(self, saved: list[Any], now: float) -> None:
        """Go on from what `state` returned."""
        for key, header, tau, weight in saved:
            push = from_header(header)
            if not isinstance(push, Push):
                raise RemoteProtocolError(f"a {push.kind!r} waits in the buffer; expected a push")
            named = Key(*key)
            gone = Session(
                0, b"", named.epoch, named.partition, 0, "", clock=0, last_seen=now, closed=True
            )
            self.add(Apply(named, gone, push, tau, weight), now)

    def _enough(self, workers: int) -> bool:
        waiting = len(self._waiting)
        if self._policy.synchronous:  # what a worker has left behind stands for no other worker's
            waiting = sum(not action.session.closed for action in self._waiting)
        return not workers or waiting >= max(1, self._policy.flush_size(workers))
