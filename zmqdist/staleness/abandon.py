"""The question by which a gradient can end a computation that has become too stale."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Watch:
    """Remembers whether the gradient was told that its computation is too stale.

    Parameters
    ----------
    ask : callable () -> bool
        Whether it is now.
    """

    def __init__(self, ask: Callable[[], bool]) -> None:
        self._ask = ask
        self.told = False

    def too_stale(self) -> bool:
        """Whether it is too stale; once it is, it stays so until `begin`."""
        self.told = self.told or self._ask()
        return self.told

    def begin(self) -> None:
        """Begin with the next computation."""
        self.told = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Answer `too_stale` in the body."""
        token = _watch.set(self)
        try:
            yield
        finally:
            _watch.reset(token)


_watch: ContextVar[Watch | None] = ContextVar("zmqdist_watch", default=None)


def too_stale() -> bool:
    """Whether the update that is being computed would be turned down.

    For a long `gradient`: ask now and then, and return None as soon as the answer is
    True. The step is then treated as its policy treats a stale update (computed again on
    a fresh model, or rejected), not as empty. Without such a policy (see
    `zmqdist.staleness.Policy.patience`), and outside of a gradient, the answer is False.

    Examples
    --------
    >>> def gradient(model, rows):
    ...     total = 0
    ...     for row in rows:
    ...         if too_stale():
    ...             return None
    ...         total = total + slope(model, row)
    ...     return {"w": total}
    """
    watch = _watch.get()
    return watch is not None and watch.too_stale()
