"""Which epochs belong to which `train()` of which program.

A program is what one driver does: it calls `train()` once or several times, each time
for one or more epochs. A driver that was started again names its calls in the same
order, and so finds the epochs that it had begun.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from zmqdist.core.messages import Begin

MAX_PROGRAMS = 100
"""Programs that are remembered; the oldest are forgotten."""


@dataclass(slots=True)
class Train:
    """The last `train()` of a program; earlier ones are over.

    Attributes
    ----------
    number : int
        Which one it is, from 0.
    before : dict
        What the master had counted when it began.
    epochs : list of int
        The numbers of its epochs, in order.
    over : bool
        It returned: nothing of it is to be done any more.
    """

    number: int
    before: dict[str, Any]
    epochs: list[int] = field(default_factory=list)
    over: bool = False


class Plans:
    """The programs of a run, in the order in which they began."""

    def __init__(self) -> None:
        self._last: dict[str, Train] = {}
        self._ended: set[str] = set()

    def __contains__(self, epoch: int) -> bool:
        """Whether an epoch may have to be gone on with."""
        train = self.of(epoch)
        return train is not None and not train.over

    def of(self, epoch: int) -> Train | None:
        """Return the `train()` that an epoch is part of, if that is the last of its program."""
        return next((train for train in self._last.values() if epoch in train.epochs), None)

    def program(self, begin: Begin) -> str:
        """Return the program that a driver means: the interrupted one if it resumes."""
        if begin.program in self._last or not begin.resume:
            return begin.program
        last = next(reversed(self._last), begin.program)
        return begin.program if last in self._ended else last

    def last(self, program: str) -> Train | None:
        """Return the last `train()` of a program, None before the first."""
        return self._last.get(program)

    def under_way(self) -> int | None:
        """Return the number of the last `train()` of the program that began last, if it goes on."""
        last = next(reversed(self._last), None)
        return None if last is None or last in self._ended else self._last[last].number

    def begin(self, program: str, number: int, before: dict[str, Any]) -> Train:
        """Begin the next `train()` of a program."""
        for name in [name for name in self._ended if name in self._last]:
            del self._last[name]
        self._ended.clear()
        train = self._last[program] = Train(number, before)
        while len(self._last) > MAX_PROGRAMS:
            del self._last[next(iter(self._last))]
        return train

    def end(self, epoch: int) -> None:
        """Note that the `train()` which an epoch is part of has returned."""
        if (train := self.of(epoch)) is not None:
            train.over = True

    def leave(self, program: str) -> None:
        """Note that a program has ended: who resumes begins another."""
        if program in self._last:
            self._last[program].over = True
            self._ended.add(program)

    def state(self) -> list[Any]:
        """Return what a checkpoint keeps, as JSON values."""
        return [
            {"program": name, "ended": name in self._ended, **asdict(train)}
            for name, train in self._last.items()
        ]

    def load_state(self, saved: list[Any]) -> None:
        """Go on from what `state` returned; what is newer here stays."""
        for entry in saved:
            train = Train(entry["number"], entry["before"], list(entry["epochs"]), entry["over"])
            mine = self._last.get(entry["program"])
            if mine and (mine.number, len(mine.epochs)) >= (train.number, len(train.epochs)):
                continue
            self._last[entry["program"]] = train
            if entry["ended"]:
                self._ended.add(entry["program"])
