"""Whether a descent does what it is for: the model changes in place, or a warning says so."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from zmqdist.wire.leaves import tree_norm

log = logging.getLogger(__name__)

PATIENCE = 10
"""Updates that change nothing before a warning, if `descent` returns None: it may gather some."""


class Effect:
    """Warns of a descent that leaves the model as it was; one for each `train()`.

    No error comes of a function that returns a new model, or binds its argument to one.
    It is looked at only until the model has changed once.

    Parameters
    ----------
    moved : callable () -> bool or None
        See `zmqdist.publisher.Publisher.moved`.
    """

    def __init__(self, moved: Callable[[], bool | None]) -> None:
        self._moved = moved
        self._looks, self._idle = True, 0

    def look(self, update: Any, returned: object) -> None:
        """Look at the model after `descent` took an update and returned something or None."""
        if not self._looks:
            return
        moved = self._moved()
        self._idle += moved is False and tree_norm(update) > 0
        idle = self._idle >= (PATIENCE if returned is None else 1)
        self._looks = not (moved or idle)
        if idle:
            log.warning(
                "descent leaves the model as it was, to the bit, though its updates are not zero: "
                "it must change the model in place; what it returns is ignored, and so is what it "
                "binds its argument to"
            )
