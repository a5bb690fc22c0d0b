"""The lives of a run's master: what a restart from a checkpoint took back.

A master that is started again from a checkpoint is the next *incarnation* of the same
run. Its version goes back to that of the checkpoint, so version 120 of one incarnation
and version 120 of the next are different models once they lie beyond it. Both have
everything up to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Point(NamedTuple):
    """A version of one incarnation: it names a model. Version -1 is none."""

    incarnation: int
    version: int


class Lineage:
    """The incarnations of one run so far, the last of which is at work.

    Parameters
    ----------
    starts : sequence of int
        The version with which each incarnation began; the first with 0.
    """

    def __init__(self, starts: Sequence[int] = (0,)) -> None:
        self.starts = list(starts)

    @property
    def incarnation(self) -> int:
        """Number of the incarnation at work, from 0."""
        return len(self.starts) - 1

    def distance(self, version: int, base: Point) -> int | None:
        """Return the staleness of an update: the versions in which two models differ.

        For a base of this incarnation that is ``version - base``. A base that an earlier
        one published may hold versions that were lost with it: these count too.

        Parameters
        ----------
        version : int
            The model's version now.
        base : Point
            What the update was computed on.

        Returns
        -------
        int or None
            None for a base that cannot be.
        """
        if base.version < 0 or not 0 <= base.incarnation <= self.incarnation:
            return None
        # Each restart since has kept what lies below its start, and nothing else.
        common = min([base.version, *self.starts[base.incarnation + 1 :]])
        if base.incarnation == self.incarnation and common > version:
            return None
        return (version - common) + (base.version - common)
