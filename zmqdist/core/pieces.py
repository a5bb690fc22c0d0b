"""How far a model has come that is sent in pieces.

A large model comes as several answers, each asked for when the one before has come: so
the master never holds it encoded as a whole, and serves others in between. It goes on
publishing meanwhile, and a piece is as new as the snapshot that it was cut from. What
the worker holds in the end is no version, unless all pieces are of the same one: it then
asks for what changed since the oldest of them, as of the newest or later.
"""

from __future__ import annotations

from zmqdist.core.messages import Version


class Pieces:
    """The pieces of one model, asked for in turn.

    Attributes
    ----------
    start : int
        As in `Pull`: where the next piece begins. -1 once all have come.
    newest : int
        The newest version that a piece is of, -1 before the first.
    """

    def __init__(self) -> None:
        self.start_over()

    def start_over(self) -> None:
        """Forget what has come."""
        self.start, self.newest = 0, -1
        self._oldest = -1

    @property
    def have(self) -> int:
        """The version from which on changes are missing, -1 while pieces are."""
        return self._oldest if self.start < 0 else -1

    @property
    def mixed(self) -> bool:
        """Whether there are pieces of several versions."""
        return self._oldest < self.newest

    def take(self, message: Version) -> bool:
        """Take in a piece; whether it is the one that was awaited."""
        if message.start != self.start:
            return False  # the second answer to what was asked twice
        first = self.newest < 0
        self._oldest = message.version if first else min(self._oldest, message.version)
        self.newest = max(self.newest, message.version)
        self.start = message.end or -1
        return True
