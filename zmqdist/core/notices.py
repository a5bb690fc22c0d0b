"""How often a line may be logged that others can cause: bounded, with the rest counted."""

from __future__ import annotations

BURST = 5
"""Lines of one sort that are logged in an interval; more are only counted."""

INTERVAL_S = 10.0
"""Length of that interval, in seconds."""


class Notices:
    """Lets a few lines of one sort through and counts the others."""

    def __init__(self) -> None:
        self._since = float("-inf")
        self._passed = 0
        self._held_back = 0

    def due(self, now: float) -> str | None:
        """Return what to append to a line that may be logged now, None to keep quiet.

        What is appended says how many lines of the sort were left out before; mostly "".
        """
        if now - self._since >= INTERVAL_S:
            self._since, self._passed = now, 0
        if self._passed == BURST:
            self._held_back += 1
            return None
        self._passed += 1
        held_back, self._held_back = self._held_back, 0
        return f" ({held_back:,} more of this sort were not logged)" if held_back else ""
