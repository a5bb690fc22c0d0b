"""How much a peer may ask that settles nothing, so that one that floods slows nobody else.

Each peer has a token bucket. A message costs one token, an update that got an answer of
its own earns some, and the rest trickles in. So a worker that gets on may send as fast as
it can; heartbeats, pulls, hellos, duplicates and nonsense are bounded by time.
"""

from __future__ import annotations

PER_S = 200
"""Tokens that trickle in each second."""

BURST = 1_000
"""Tokens at first and at most."""

EARNED = 5
"""Tokens for an update that was not sent before."""

MAX_PEERS = 10_000
"""Peers remembered; with more, those are forgotten whose bucket is full again."""


class Budgets:
    """The buckets of all peers."""

    def __init__(self) -> None:
        self._left: dict[bytes, tuple[float, float]] = {}
        self._room = MAX_PEERS

    def spend(self, peer: bytes, now: float) -> bool:
        """Take a token of `peer`; False if it has none, so that its message is dropped."""
        left, at = self._left.get(peer, (BURST, now))
        left = min(BURST, left + (now - at) * PER_S)
        if left < 1:
            return False
        if peer not in self._left and len(self._left) >= self._room:
            self._forget(now)
        self._left[peer] = (left - 1, now)
        return True

    def earn(self, peer: bytes) -> None:
        """Reward a peer for an update."""
        if peer in self._left:
            left, at = self._left[peer]
            self._left[peer] = (min(BURST, left + EARNED), at)

    def _forget(self, now: float) -> None:
        full_s = BURST / PER_S
        self._left = {peer: kept for peer, kept in self._left.items() if now - kept[1] < full_s}
        self._room = max(MAX_PEERS, 2 * len(self._left))
