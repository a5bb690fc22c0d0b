"""Simulated workers that die and come back."""

from __future__ import annotations

from collections.abc import Sequence

from zmqdist.tuning.agenda import Agenda
from zmqdist.tuning.delays import Delay
from zmqdist.tuning.streams import Purpose, generator
from zmqdist.tuning.virtual_worker import VirtualWorker


class Failing:
    """Has each worker die after a random time, and rejoin after another.

    What is under way to the master still arrives. What was being computed is lost, and
    computed again by the worker that takes over: the same number, in a new session.
    """

    def __init__(
        self,
        fail_every: Delay,
        down_for: Delay,
        agenda: Agenda,
        workers: Sequence[VirtualWorker],
        *,
        lease_s: float,
        seed: int,
    ) -> None:
        self._agenda, self._lease_s = agenda, lease_s
        numbers = [worker.number for worker in workers]
        self._up_s = [fail_every.stream(generator(seed, i, Purpose.FAILURE)) for i in numbers]
        self._down_s = [down_for.stream(generator(seed, i, Purpose.REPAIR)) for i in numbers]
        for worker in workers:
            self._agenda.at(next(self._up_s[worker.number]), self._fail, worker)

    def _fail(self, now: float, worker: VirtualWorker) -> None:
        worker.die(now, self._lease_s)
        self._agenda.at(now + next(self._down_s[worker.number]), self._rejoin, worker)

    def _rejoin(self, now: float, worker: VirtualWorker) -> None:
        worker.rejoin(now)
        self._agenda.at(now + next(self._up_s[worker.number]), self._fail, worker)
