"""When to write a checkpoint, and what the last one holds."""

from __future__ import annotations


class Saving:
    """Counts what is to be kept, and says when it is to be written.

    Parameters
    ----------
    every_s : float or None, default=None
        Write about each so many seconds if anything changed; None never.

    Attributes
    ----------
    changes : int
        Messages so far that may have changed something.
    saved : int or None
        How many of these the newest checkpoint holds; None without checkpoints.
    trouble : str
        Why the last attempt to write one failed, "" if it did not.
    """

    def __init__(self, every_s: float | None = None) -> None:
        self.every_s = every_s
        self.changes = 0
        self.saved: int | None = None if every_s is None else -1
        self.trouble = ""
        self._begun_at: float | None = None
        self._under_way: int | None = None
        self._wanted = False
        self._stopped = False

    def stop(self, trouble: str) -> None:
        """Write no more: what there is to write is spoilt."""
        self._stopped, self.trouble = True, trouble

    def want(self) -> None:
        """Ask for a checkpoint as soon as possible."""
        self._wanted = True

    def due(self, now: float) -> bool:
        """Whether a checkpoint is to be begun now; only one is under way at a time."""
        if self.every_s is None or self._under_way is not None or self.saved == self.changes:
            return False
        if self._stopped:
            return False
        waited = self._begun_at is None or now - self._begun_at >= self.every_s
        return waited or self._wanted

    def begin(self, now: float) -> None:
        """Note that a copy of everything was taken, which is going to be written."""
        self._begun_at, self._under_way, self._wanted = now, self.changes, False

    def end(self, trouble: str = "") -> None:
        """Note that the checkpoint under way is written, or why it could not be."""
        if not self._stopped:
            self.trouble = trouble
        if not trouble:
            self.saved = self._under_way
        self._under_way = None
