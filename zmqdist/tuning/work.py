"""What the simulated workers work on: partitions of batches, epoch by epoch."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from zmqdist.tuning.agenda import Agenda

if TYPE_CHECKING:
    from zmqdist.tuning.virtual_worker import VirtualWorker

Batches = Iterator[Any]
"""The steps of a partition, as what each of them computes on."""


class Work:
    """Gives partitions to workers that are free; an epoch begins when the last one is complete.

    Parameters
    ----------
    partitions : sequence of callable
        Each begins its partition: returns the batches of one epoch.
    epochs : int
    agenda : Agenda
        Is over when the last epoch is complete.
    """

    def __init__(
        self, partitions: Sequence[Callable[[], Batches]], epochs: int, agenda: Agenda
    ) -> None:
        self._partitions, self._agenda = partitions, agenda
        self._epochs_left = epochs
        self.epoch = -1
        self._free: deque[int] = deque()
        self._open = 0
        self._waiting: list[VirtualWorker] = []
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self._free.extend(range(len(self._partitions)))
        self._open = len(self._partitions)
        self._epochs_left -= 1
        self.epoch += 1

    def take(self) -> tuple[int, Batches] | None:
        """Return a partition to work on and its batches, None if none is free."""
        if not self._free:
            return None
        partition = self._free.popleft()
        return partition, self._partitions[partition]()

    def wait(self, worker: VirtualWorker) -> None:
        """Have a worker join again when the next epoch begins."""
        self._waiting.append(worker)

    def complete(self, now: float) -> None:
        """Take note that a partition is done."""
        self._open -= 1
        if self._open:
            return
        if not self._epochs_left:
            self._agenda.over = True
        else:
            self._begin_epoch()
            waiting, self._waiting = self._waiting, []
            for worker in waiting:
                worker.join(now)


def without_data(steps: int | None, partitions: int) -> list[Callable[[], Batches]]:
    """Return partitions of so many steps each, None for no end."""

    def begin() -> Batches:
        return itertools.repeat(None) if steps is None else itertools.repeat(None, steps)

    return [begin] * partitions
