"""Whatever the network and the processes do: once each, within the bound, to the end."""

from __future__ import annotations

import itertools
from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.core.host import Sharer, SharingLink
from tests.core.link import LEASE_S, SAVE_EVERY_S, Link, Worker
from zmqdist.core.pacing import Pacing
from zmqdist.staleness import (
    REQUEUE,
    Arrival,
    Asynchronous,
    BackupWorkers,
    BoundedStaleness,
    BulkSynchronous,
    Composed,
    Decision,
    DynamicStaleSynchronous,
    FedBuff,
    Policy,
    RateRescaled,
    Rennala,
    Ringmaster,
    SoftSync,
    StalenessAware,
    StaleSynchronous,
)


class GatedRequeue(StaleSynchronous):
    """Gates and requeues: a policy may do both."""

    def decide(self, update: Arrival) -> Decision:
        return super().decide(update) if update.tau <= self.slack else REQUEUE


POLICIES: list[Policy] = [
    Asynchronous(),
    *(BoundedStaleness(n, how) for n in (0, 2) for how in ("reject", "requeue", "scale")),
    *(StaleSynchronous(n, how) for n in (0, 2) for how in ("eager", "lazy")),
    *(GatedRequeue(n) for n in (0, 1)),
    SoftSync(1, timeout_s=3.0),
    SoftSync(2, timeout_s=3.0),
    *(DynamicStaleSynchronous(0, 2, how) for how in ("eager", "lazy")),
    *(Ringmaster(*options) for options in ((1,), (2, "requeue"), ("auto", "requeue"))),
    StalenessAware("inverse"),
    RateRescaled(),
    FedBuff(3, timeout_s=3.0),
    *(Rennala(2, how) for how in ("reject", "requeue")),
    BulkSynchronous(),
    *(BackupWorkers(1, how) for how in ("reject", "requeue")),
    Composed(StaleSynchronous(1, "lazy"), BoundedStaleness(2, "requeue"), SoftSync(2, 3.0)),
    Composed(BulkSynchronous(), StalenessAware("inverse1")),
]
PACES = {"each": lambda: Pacing(every=1), "third": lambda: Pacing(every=3), "adaptive": Pacing}
anything = st.integers(0, 10_000)


class Cluster(RuleBasedStateMachine):
    """Faults, in any order, on a `Link`; at the end it is healed and has to finish."""

    policy: Policy
    link: Link = None  # type: ignore[assignment]  # until `open`

    @initialize(
        max_in_flight=st.integers(1, 3), pace=st.sampled_from(sorted(PACES)), size=st.integers(2, 3)
    )
    def open(self, max_in_flight: int, pace: str, size: int) -> None:
        self.link = self.new_link(
            self.policy, partitions=size, max_in_flight=max_in_flight, pacing=PACES[pace]()
        )

    new_link: type[Link] = Link

    def _worker(self, number: int) -> Worker | None:
        here = [worker for worker in self.link.workers if worker.alive]
        return here[number % len(here)] if here else None

    # ---- what goes well ---------------------------------------------------------------------

    @rule(count=st.integers(1, 12), order=st.randoms(use_true_random=False))
    def run(self, count: int, order: Random) -> None:
        """Everybody gets on, in some order."""
        for _ in range(count):
            worker = self._worker(order.randrange(1000))
            if worker is not None and not worker.move():
                self.link.deliver_all()

    @rule(number=anything)
    def move(self, number: int) -> None:
        if (worker := self._worker(number)) is not None:
            worker.move()

    @rule(seconds=st.sampled_from([0.1, 1.1, LEASE_S / 4]))
    def pass_time(self, seconds: float) -> None:
        self.link.pass_time(seconds)

    # ---- what the network does -----------------------------------------------------------------

    @rule(number=anything)
    def deliver(self, number: int) -> None:
        """Deliver one letter, perhaps before older ones."""
        if self.link.letters:
            self.link.deliver(number % len(self.link.letters))

    @rule(number=anything)
    def drop(self, number: int) -> None:
        if self.link.letters:
            del self.link.letters[number % len(self.link.letters)]

    @rule()
    def drop_all(self) -> None:
        self.link.letters.clear()

    @rule(number=anything)
    def duplicate(self, number: int) -> None:
        if self.link.letters:
            self.link.letters.append(self.link.letters[number % len(self.link.letters)])

    # ---- what happens to processes -------------------------------------------------------------

    @rule(number=anything)
    def kill_and_retry(self, number: int) -> None:
        worker = self._worker(number)
        if worker is not None and worker.epoch == self.link.epoch and len(self.link.workers) < 12:
            self.link.kill(worker)
            self.link.attempt(worker.partition)

    @rule(partition=st.integers(0, 1))
    def speculate(self, partition: int) -> None:
        if len(self.link.workers) < 12:
            self.link.attempt(partition)

    @rule(number=anything)
    def suspend_or_wake(self, number: int) -> None:
        if (worker := self._worker(number)) is not None:
            worker.awake = not worker.awake

    @rule()
    def lease_passes(self) -> None:
        """Those that sleep now come back as zombies; the others beat all the time."""
        for _ in range(6):
            self.link.pass_time(LEASE_S / 4)
            self.link.deliver_all()

    @rule()
    def next_train(self) -> None:
        """Give the epoch up, late messages and all, and begin another `train()`."""
        if self.link.epoch < 3:
            self.link.end()
            self.link.begin()

    @rule()
    def next_pass(self) -> None:
        """Go on to the next epoch of the `train()` once this one is complete."""
        if self.link.epoch < 3:
            self.link.run()
            self.link.end()
            self.link.next_pass()

    # ---- what happens to the master ------------------------------------------------------------

    @rule(trouble=st.sampled_from(["", "", "no space left"]))
    def written(self, trouble: str) -> None:
        """A checkpoint is on disk, or cannot be written."""
        self.link.written(trouble)

    @rule(loses=st.booleans())
    def restart(self, loses: bool) -> None:
        """Kill the master, with or without what is under way, and start it again."""
        self.link.restart()
        if loses:
            self.link.letters.clear()

    # ---- what holds ----------------------------------------------------------------------------

    @invariant()
    def books(self) -> None:
        if self.link is not None:
            self.link.check()

    def teardown(self) -> None:
        if self.link is not None:
            self.link.run()
            self.link.check()
            self.link.check_complete()
            self.link.end(over=True)
            self.link.pass_time(SAVE_EVERY_S)
            self.link.written()
            self.link.pass_time(0.1)
            self.link.written()
            report = self.link.status()
            assert report.saved == report.changes, "what train() returns is in a checkpoint"
            self.link.restart()
            self.link.check_complete()


class SharingCluster(Cluster):
    """The same with replicas that several workers share."""

    new_link = SharingLink

    @rule(number=anything)
    def die_writing_and_retry(self, number: int) -> None:
        """The replica is left torn, and the receiver's place may be free."""
        for worker in self.link.workers:
            worker.move(), worker.move()
        self.link.deliver_up()
        worker = self._worker(number)
        if isinstance(worker, Sharer) and worker.awake and len(self.link.workers) < 12:
            if worker.die_writing() and worker.epoch == self.link.epoch:
                self.link.attempt(worker.partition)


SHARING_POLICIES: list[Policy] = [
    Asynchronous(),
    BoundedStaleness(0, "requeue"),
    BoundedStaleness(2, "reject"),
    StaleSynchronous(0, "lazy"),
    BulkSynchronous(),
    Composed(StaleSynchronous(1, "lazy"), BoundedStaleness(2, "requeue"), SoftSync(2, 3.0)),
]


@pytest.mark.parametrize(
    ("kind", "policy"),
    [*((Cluster, p) for p in POLICIES), *((SharingCluster, p) for p in SHARING_POLICIES)],
    ids=lambda value: getattr(value, "__name__", None) or repr(value),
)
def test_cluster(kind: type[Cluster], policy: Policy) -> None:
    machine = type(kind.__name__, (kind,), {"policy": policy})
    case = machine.TestCase
    case.settings = settings(
        max_examples=30,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    case("runTest").runTest()


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
@pytest.mark.parametrize(("pace", "max_in_flight"), [*itertools.product(PACES, (1, 2, 3))])
def test_without_faults(policy: Policy, pace: str, max_in_flight: int) -> None:
    for kind in (Link, SharingLink):
        link = kind(policy, pacing=PACES[pace](), max_in_flight=max_in_flight)
        link.run()
        link.check()
        link.check_complete()
        assert link.master.totals.duplicates == link.master.totals.evicted == 0
    if policy == BulkSynchronous():  # nobody computes on what the others have left behind
        assert link.master.totals.requeued == 0
        assert set(link.master.staleness) == {0}
