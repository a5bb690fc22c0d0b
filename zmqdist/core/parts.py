"""Which parts of the model a worker holds, and which it has asked for.

Part 0 is the whole model. A worker that trains in place may name further parts and ask
for these more often; a part holds the rows of all parts of smaller numbers, part 1 those
that change most.
"""

from __future__ import annotations

from collections.abc import Mapping

from zmqdist.core.lineage import Point
from zmqdist.core.messages import Pull, Version

NEWEST = 2**62
"""As `Pull.want`: the newest version, published for the purpose if need be."""


class Parts:
    """Versions of the parts beyond 0, and at most one question about each under way.

    Parameters
    ----------
    keep_bits : int
        How exact answers have to be, see `Pull`.
    """

    def __init__(self, keep_bits: int = 0) -> None:
        self.keep_bits = keep_bits
        self._held: dict[int, int] = {}
        self._before: tuple[Point, dict[int, int]] | None = None
        self._asked_at: dict[int, float] = {}

    @property
    def versions(self) -> dict[int, int]:
        """The versions of the parts that were answered."""
        return self._held

    def go_on(self, versions: Mapping[int, int]) -> None:
        """Begin with the versions that an earlier partition ended with, of the same parts."""
        self._held = dict(versions)

    def held(self, part: int, whole: int) -> int:
        """Return the version of a part; at least `whole`, that of the whole model."""
        return max([whole, *(held for other, held in self._held.items() if other >= part)])

    def given(self, part: int, whole: Point) -> Point:
        """Return what the model holds of a part: of the life before until this one has come."""
        held = self._held
        if whole.version < 0 and self._before is not None:
            whole, held = self._before
        return Point(whole.incarnation, max(held.get(part, -1), whole.version))

    def start_over(self, whole: Point) -> None:
        """Forget the parts of a master that was restarted, and what it was asked."""
        if whole.version >= 0:
            self._before = whole, self._held
        self._held, self._asked_at = {}, {}

    def pending(self, part: int) -> bool:
        """Whether the part is asked for."""
        return part in self._asked_at

    def ask(self, part: int, session: int, whole: int, now: float) -> Pull:
        """Return the question for the newest values of a part."""
        self._asked_at[part] = now
        return Pull(session, self.held(part, whole), NEWEST, part, self.keep_bits)

    def patient(self, now: float) -> None:
        """Let nothing be overdue yet."""
        self._asked_at = dict.fromkeys(self._asked_at, now)

    def overdue(self, now: float, patience_s: float) -> list[int]:
        """Return the parts whose answer should have come."""
        return [part for part, asked in self._asked_at.items() if now - asked >= patience_s]

    def answered(self, message: Version, whole: int) -> bool:
        """Take in an answer; whether its values are to be loaded."""
        held = self.held(message.part, whole)
        if message.base > held or message.version < held:
            return False
        self._asked_at.pop(message.part, None)
        self._held[message.part] = message.version
        return True
