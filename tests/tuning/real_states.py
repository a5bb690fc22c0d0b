"""The protocol's own states in virtual time: what the fast simulator is held against.

`MasterState` and `WorkerState` say what happens; here each message takes the link's time, the
master serves one at a time, and workers compute for as long as the cluster says. Slow, and
as literal as can be: every broadcast and every limit is delivered to every worker.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from typing import Any

from zmqdist.core import actions as act
from zmqdist.core import worker_actions as wrk
from zmqdist.core.master_state import MasterState
from zmqdist.core.messages import Begin, Begun, Message, Push, Version
from zmqdist.core.pacing import Pacing
from zmqdist.core.staleness import Policy
from zmqdist.core.worker_state import WorkerState
from zmqdist.tuning.agenda import Agenda
from zmqdist.tuning.cluster import FREE, Cluster
from zmqdist.tuning.delays import Delay
from zmqdist.tuning.streams import Purpose, generator

DRIVER = b"driver"
FOREVER_S = 1e9

Decided = tuple[float, int, int, int, str]
"""When an update was decided on, whose, its base, its staleness, and what became of it."""


class RealWorker:
    """One task with endless steps."""

    def __init__(self, run: RealRun, number: int, max_in_flight: int) -> None:
        self.run, self.number = run, number
        self.state = WorkerState(
            run=run.master.run,
            epoch=run.epoch,
            partition=number,
            attempt=number,
            worker=str(number),
            max_in_flight=max_in_flight,
        )
        times = run.cluster.compute_of(number).stream(generator(run.seed, number, Purpose.COMPUTE))
        self.times: Iterator[float] = times
        self.line_free_at = 0.0
        self.next_step = 0
        self.computing: Push | None = None

    def go_on(self, now: float) -> None:
        """Start the next step, or ask for what is missing."""
        if self.computing is not None:
            return
        if not self.state.may_start():
            self.perform(self.state.want(now), now)
            return
        if self.state.requeued:
            step = self.state.requeued.pop(0)
        else:
            step, self.next_step = self.next_step, self.next_step + 1
        clock, _ = self.state.start()
        compute_s = next(self.times)
        self.computing = Push(
            0, step, self.state.base.version, clock, examples=1, compute_s=compute_s
        )
        self.run.agenda.at(now + compute_s, self.computed, None)

    def computed(self, now: float, _: object) -> None:
        push, self.computing = self.computing, None
        assert push is not None
        if self.state.fresh.too_stale:
            push = Push(
                0, push.step, push.base, push.clock, 1, compute_s=push.compute_s, abandoned=True
            )
        self.perform(self.state.push(push, now), now)
        self.go_on(now)

    def receive(self, now: float, message: Message) -> None:
        self.perform(self.state.receive(message, now), now)
        self.go_on(now)

    def perform(self, actions: list[Any], now: float) -> None:
        for action in actions:
            match action:
                case wrk.SendToMaster():
                    self.run.to_master(self, action.message, max(self.line_free_at, now))
                case wrk.SendUpdate():
                    line_s = self.run.cluster.update_bytes / self.run.cluster.line_bytes_s
                    takes_s = 0.0 if action.push.abandoned else line_s
                    self.line_free_at = max(self.line_free_at, now) + takes_s
                    self.run.to_master(self, action.push, self.line_free_at)


class RealRun:
    """A master and its workers.

    Parameters
    ----------
    cluster, policy, max_in_flight, publish_every, publish_interval_s, seed
        As in `zmqdist.tuning.simulate.simulate`.
    """

    def __init__(
        self,
        cluster: Cluster,
        policy: Policy,
        *,
        max_in_flight: int = 2,
        publish_every: int | None = None,
        publish_interval_s: float | None = None,
        seed: int = 0,
    ) -> None:
        self.cluster, self.seed = cluster, seed
        self.agenda = Agenda()
        self.master = MasterState(
            "run",
            policy,
            schema={},
            lease_s=FOREVER_S,
            pacing=Pacing(publish_every, publish_interval_s),
        )
        self.apply_s = self._times(cluster.apply, Purpose.SERVICE)
        self.turn_down_s = self._times(cluster.turn_down or FREE, Purpose.TURN_DOWN)
        self.publish_s = self._times(cluster.publish, Purpose.PUBLISH)
        self.waiting: deque[tuple[RealWorker, Message]] = deque()
        self.busy = False
        self.clock = 0.0
        self.in_free_at = 0.0
        self.decided: list[Decided] = []
        self.started = False
        self._letters: list[tuple[RealWorker, Message]] = []
        actions = self.master.receive(DRIVER, Begin(cluster.workers), 0.0)
        (begun,) = [a.message for a in actions if isinstance(a, act.Send)]
        assert isinstance(begun, Begun)
        self.epoch = begun.epoch
        self.workers = [RealWorker(self, i, max_in_flight) for i in range(cluster.workers)]
        for worker in self.workers:  # shakes hands, in no time
            worker.perform(worker.state.tick(0.0), 0.0)
            while self.waiting or self._letters:
                while self.waiting:
                    self._serve_one(*self.waiting.popleft())
                while self._letters:
                    to, message = self._letters.pop(0)
                    to.perform(to.state.receive(message, 0.0), 0.0)
        self.started, self.clock = True, 0.0
        for worker in self.workers:
            worker.go_on(0.0)

    def _times(self, delay: Delay, purpose: Purpose) -> Iterator[float]:
        return delay.stream(generator(self.seed, 0, purpose))

    def until(self, decisions: int) -> list[Decided]:
        """Run on until so many updates were decided on, and return these."""
        while len(self.decided) < decisions:
            self.agenda.run(self.agenda.now + 1.0)
        return self.decided[:decisions]

    # ---- letters -------------------------------------------------------------------------

    def to_master(self, worker: RealWorker, message: Message, sent: float) -> None:
        if not self.started:
            self.waiting.append((worker, message))
            return
        self.agenda.at(sent + self.cluster.latency_s, self._arrived, (worker, message))

    def to_worker(self, worker: RealWorker, message: Message, sent: float) -> None:
        if not self.started:
            self._letters.append((worker, message))
            return
        line_s = self.cluster.latency_s
        if isinstance(message, Version):
            line_s += self.cluster.version_bytes / self.cluster.line_bytes_s
        self.agenda.at(sent + line_s, worker.receive, message)

    def _arrived(self, now: float, letter: tuple[RealWorker, Message]) -> None:
        _, message = letter
        carries = isinstance(message, Push) and not message.abandoned
        in_s = self.cluster.update_bytes / self.cluster.master_in_bytes_s
        self.in_free_at = max(self.in_free_at, now) + in_s * carries
        self.agenda.at(self.in_free_at, self._received, letter)

    def _received(self, now: float, letter: tuple[RealWorker, Message]) -> None:
        self.waiting.append(letter)
        if not self.busy:
            self._serve(now, None)

    # ---- the master's driver -----------------------------------------------------------------

    def _serve(self, now: float, _: object) -> None:
        """Serve what waits; publish between messages, as the master's loop does."""
        self.busy, self.clock = False, now
        while self.clock <= now:
            if self.master.publish_due(self.clock):
                self._publish()
            elif self.waiting:
                self._serve_one(*self.waiting.popleft())
            else:
                self._wait_for_pace()
                return
        self.busy = True
        self.agenda.at(self.clock, self._serve, None)

    def _wait_for_pace(self) -> None:
        state = self.master
        due_in_s = state.pacing.due_in_s(state.version, state.published, self.clock)
        if due_in_s is not None:
            self.agenda.at(self.clock + due_in_s, self._idle, None)

    def _idle(self, now: float, _: object) -> None:
        if not self.busy:
            self._serve(now, None)

    def _serve_one(self, worker: RealWorker, message: Message) -> None:
        actions = self.master.receive(str(worker.number).encode(), message, self.clock)
        if isinstance(message, Push):
            (apply,) = [a for a in actions if isinstance(a, act.Apply)] or [None]
            tau = self.master.version - message.base
            self.clock += next(self.apply_s if apply else self.turn_down_s)
            if apply is not None:
                outcome = "applied"
            else:
                outcome = next(
                    a.message.outcome  # type: ignore[attr-defined]
                    for a in actions
                    if isinstance(a, act.Send) and a.message.kind == "ack"
                )
            self.decided.append((self.clock, worker.number, message.base, tau, outcome))
        self._perform(actions)

    def _perform(self, actions: list[Any]) -> None:
        for action in actions:
            match action:
                case act.Apply() if self.master.policy.buffers:
                    self._perform(self.master.buffered(action, self.clock))
                case act.Apply():
                    self._perform(self.master.applied(action, self.clock))
                case act.Flush():
                    self.master.flushed(action)
                case act.Send():
                    if action.peer != DRIVER:
                        self.to_worker(self.workers[int(action.peer)], action.message, self.clock)
                case act.Publish():
                    self._publish()
                case act.SendSnapshot():
                    self.clock += next(self.publish_s) if self.started else 0.0
                    base = min(action.pull.have, self.master.published)
                    self.to_worker(self.workers[int(action.peer)], self._version(base), self.clock)

    def _publish(self) -> None:
        base, begun = self.master.published, self.clock
        version, clock = self.master.version, self.master.slowest()
        self.clock += next(self.publish_s)
        if base >= 0:
            for worker in self.workers:
                if self.started:
                    message = Version(self.master.run, base, version, clock)
                    self.to_worker(worker, message, self.clock)
        self.master.was_published(begun, self.clock)

    def _version(self, base: int) -> Version:
        return Version(self.master.run, base, self.master.published, self.master.slowest())


def first_difference(ours: list[Decided], real: list[Decided]) -> str:
    """Return where two runs part, nothing if they do not."""
    for index, (a, b) in enumerate(zip(ours, real, strict=True)):
        if a[1:] != b[1:] or not math.isclose(a[0], b[0], rel_tol=1e-9, abs_tol=1e-9):
            return f"decision {index}: simulated {a}, real states {b}"
    return ""
