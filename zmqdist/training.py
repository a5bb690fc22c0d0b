"""One `train()`: epochs, rounds until the ledger is complete, and every way to end."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any

from zmqdist.assignment import CONNECT_S, Assignment
from zmqdist.core.messages import Begun, Report
from zmqdist.driver import Driver
from zmqdist.engines import Engine, Job
from zmqdist.errors import ConfigError, MasterLost, TrainError, TrainTimeout, ZmqdistError
from zmqdist.evaluation import Evaluation
from zmqdist.failures import fatal_error, job_error
from zmqdist.master import Master
from zmqdist.models.base import Parameters
from zmqdist.models.structure import dump_structure
from zmqdist.net.address import WILDCARDS, endpoint, parse_address
from zmqdist.net.security import ClientKeys, KeyPair
from zmqdist.options import TrainOptions
from zmqdist.plan import LOOK_S, Plan
from zmqdist.result import FIGURES, Means, TrainResult
from zmqdist.task import Summary
from zmqdist.telemetry.progress import Progress

log = logging.getLogger(__name__)

REPORT_S = 1.0
"""How often history, callbacks and the line are fed, in seconds."""

GRACE_S = 1.0
"""How long workers get to stop by themselves before the job is cancelled, in seconds.

Until then partitions that waited for a slot may start, to no purpose; a Spark task goes
on for 2 s after its job is cancelled."""

LEAVE_S = 2.0
"""How long a program waits at its end for the master to take note, in seconds."""

MAX_IDLE_ROUNDS = 3
"""Jobs in a row that settle nothing before the run is given up."""


class _Enough(Exception):
    """`max_updates` or `stop_when`: the run ends well before its data does."""


class Training:
    """Runs one `train()`.

    Attributes
    ----------
    result : TrainResult
        Filled while the run goes on; final when `run` returns.
    plan : Plan or None
        How the master keeps it, once it was asked.
    """

    def __init__(
        self,
        parameters: Parameters,
        engine: Engine,
        options: TrainOptions,
        *,
        address: str,
        keys: ClientKeys | None,
        master: Master | None,
    ) -> None:
        self.result = TrainResult()
        self._parameters = parameters
        self._engine = engine
        self._options = options
        self._address = address
        self._keys = keys
        self._worker_keys = keys and ClientKeys(KeyPair.generate(), keys.server_public)
        self._master = master
        self._started = time.monotonic()
        self.plan: Plan | None = None
        self._before: Report | None = None
        self._fed_at = self._started
        self._saw_items = False
        self._payload = b""
        self._references: list[Any] = []
        self._progress: Progress | None = None
        self._means: Means | None = None
        self._evaluation: Evaluation | None = None

    def run(self) -> TrainResult:
        """Run all epochs; returns when the ledger is complete."""
        options = self._options
        self._parameters.arrays(), self._parameters.scalars()  # what they were at first
        model = self._parameters.model
        self._payload = dump_structure(
            model, self._parameters, options.gradient, references=self._references
        )
        if options.evaluate is not None:
            self._evaluation = Evaluation(
                options.evaluate,
                options.stop_when,
                options.evaluate_every_s,
                dump_structure(model, self._parameters),  # a gradient may load elsewhere only
                self._connect,
            )
        driver = self._connect(self._silence)
        total = options.epochs * self._engine.partitions
        key = self._worker_keys.own.public if self._worker_keys is not None else ""
        plan = self.plan = Plan(driver, options, self._engine.partitions, key, self._check_master)
        try:
            with Progress(options.progress, total) as progress:
                self._progress = progress
                self._run_epochs(plan, driver, progress)
            self._take_over(driver)
        except TrainError:
            try:
                self._take_over(driver)
            except ZmqdistError as error:  # the first one says more
                log.warning("the model is as it was before train(): %s", error)
            raise
        finally:
            driver.close()
        result = self.result
        if not (self._saw_items or result.applied or result.duplicates or result.stopped):
            raise ConfigError(
                "the data is empty: none of the partitions holds an item; check the input path "
                "and the filters"
            )
        if self._evaluation is not None:
            until = self._started + (options.timeout_s or math.inf)
            for entry in self._evaluation.finish(self._figures(), result.version, until):
                result.note(entry)
        return result

    def _take_over(self, driver: Driver) -> None:
        """Give the program's model what was learned."""
        if self._master is None:
            driver.fetch(self._parameters, self.result.version)
        else:
            self._parameters.loaded()

    def leave(self) -> None:
        """Say that the program came to its end: to resume is to begin another."""
        if self.plan is None or not self.plan.saves:
            return
        driver = self._connect(connect_s=LEAVE_S)
        try:
            driver.leave(self.plan.run, self.plan.program)
        except ZmqdistError as error:
            log.warning("the master does not know that the program came to its end: %s", error)
        finally:
            driver.close()

    def _connect(
        self, on_silence: Callable[[float], None] | None = None, **options: float
    ) -> Driver:
        """Connect to the master, which this process may not reach as it is advertised."""
        address = self._address
        if self._master is not None:
            host, port = self._master.options.bind_host, parse_address(address)[1]
            address = endpoint("127.0.0.1" if host in WILDCARDS else host, port)
        return Driver(address, self._keys, on_silence=on_silence, **options)

    # ---- one epoch ------------------------------------------------------------------------

    def _run_epochs(self, plan: Plan, driver: Driver, progress: Progress) -> None:
        """Run the epochs until the ledger has all of them, and a checkpoint what it has.

        A master that was restarted may have lost a part of any: look at all of them again,
        from the first on.
        """
        whole = False
        while not whole:
            try:
                incarnation = -1
                for number in range(self._options.epochs):
                    begun = plan.begin(number)
                    self._before = self._before or plan.before
                    if begun is None:
                        self._count(driver.status(-1))
                        self._saw_items = True  # before
                        return
                    incarnation = begun.incarnation if incarnation < 0 else incarnation
                    self._evaluate()
                    self._run_epoch(plan, driver, begun, number, progress)
            except _Enough as enough:
                self.result.stopped = str(enough)
                incarnation = plan.incarnation
            whole = plan.keep(incarnation)
        idle, result = self.result.skipped, self.result
        if idle and not (result.applied or result.rejected or self._options.tiers):
            log.warning("gradient returned nothing in all %d steps: a missing return?", idle)

    def _run_epoch(
        self, plan: Plan, driver: Driver, begun: Begun, number: int, progress: Progress
    ) -> None:
        reason = "the run was cancelled"
        try:
            self._parameters.check({n: (d, tuple(s)) for n, (d, s) in begun.schema.items()})
            if self._options.tiers is not None and begun.unfit_in_place:
                raise ConfigError(begun.unfit_in_place)
            plan.status(begun.epoch)  # says whether a master that is away may come back
            job = self._job(begun, number)
            self._run_rounds(plan, driver, begun.epoch, job, number, progress)
            reason = "the epoch is complete"
        except ZmqdistError as error:
            reason = f"{type(error).__name__}: {error}"[:500]
            raise
        finally:
            self._end(driver, begun.epoch, reason)

    def _job(self, begun: Begun, number: int) -> Job:
        options = self._options
        return Job(
            name=f"zmqdist-{begun.run}-{begun.epoch}",
            title=f"zmqdist epoch {number + 1} of {options.epochs}",
            assignment=Assignment(
                address=self._address,
                run=begun.run,
                epoch=begun.epoch,
                schema={n: (d, tuple(s)) for n, (d, s) in begun.schema.items()},
                keys=self._worker_keys,
                codec=options.codec,
                max_in_flight=options.max_in_flight,
                replica=options.replica_among(self._engine.at_once),
                batch_size=options.batch_size,
                tiers=options.tiers,
                connect_s=max(CONNECT_S, begun.lease_s if self.plan and self.plan.saves else 0),
                where=options.where,
            ),
            payload=self._payload,
            references=tuple(self._references),
        )

    def _run_rounds(
        self, plan: Plan, driver: Driver, epoch: int, job: Job, number: int, progress: Progress
    ) -> None:
        """Run the partitions that the ledger misses, until it misses none."""
        report = plan.status(epoch)
        if self._means is None:
            self._means = Means(self._before or report)
        idle_rounds = 0
        while report.missing:
            settled, incarnation = _settled(report), report.incarnation
            report = self._run_round(plan, driver, epoch, job, report.missing, number, progress)
            got_on = _settled(report) > settled or report.incarnation != incarnation
            idle_rounds = 0 if got_on else idle_rounds + 1
            if report.missing and idle_rounds >= MAX_IDLE_ROUNDS:
                raise TrainError(
                    f"partitions {report.missing[:10]} did not get on in {idle_rounds} jobs; "
                    "they end before their steps are settled. Do they yield the same number of "
                    "updates each time?"
                )

    def _run_round(
        self,
        plan: Plan,
        driver: Driver,
        epoch: int,
        job: Job,
        missing: list[int],
        number: int,
        progress: Progress,
    ) -> Report:
        """Run one job over the missing partitions and look after it."""
        outcome: list[Any] = []
        ended = threading.Event()  # a join that Ctrl-C interrupts takes a live thread for ended

        def work() -> None:
            try:
                outcome.extend(self._engine.run(job, missing))
            except BaseException as error:
                outcome.append(error)
            finally:
                ended.set()

        thread = self._engine.thread(work)
        try:
            thread.start()
            while not ended.wait(LOOK_S):
                self._look(plan.status(epoch), number, progress)
        except BaseException as error:
            self._stop_job(driver, epoch, ended, error)
            raise
        thread.join()
        report = plan.status(epoch)
        self._feed(report, number, progress, due=True)
        if report.fatal is not None:
            raise fatal_error(report.fatal) from self._cause()
        if outcome and isinstance(outcome[-1], BaseException):
            raise job_error(outcome[-1], report) from outcome[-1]
        self._saw_items |= any(isinstance(s, Summary) and s.items for s in outcome)
        return report

    def _stop_job(
        self, driver: Driver, epoch: int, ended: threading.Event, error: BaseException
    ) -> None:
        """Ask the workers to stop; cancel the job if they do not within their grace."""
        log.info("stopping the workers: %s", error or type(error).__name__)
        self._end(driver, epoch, f"{type(error).__name__}: {error}"[:500])
        if not ended.wait(GRACE_S):
            self._engine.cancel()
            ended.wait(GRACE_S)

    def _end(self, driver: Driver, epoch: int, reason: str) -> None:
        if self._master is not None and not self._master.alive:
            return
        try:
            report = driver.end(epoch, reason)
        except ZmqdistError as error:
            log.warning("could not close epoch %d: %s", epoch, error)
            return
        if self._before is not None:
            self._count(report)

    # ---- looking after the job -----------------------------------------------------------

    def _silence(self, seconds: float) -> None:
        """Say that the master is silent, or notice why."""
        self._check_master()
        if self._progress is not None:
            self._progress.silence(seconds)

    def _check_master(self) -> None:
        """Notice at once that the master of this process is gone."""
        if self._master is None or self._master.alive:
            return
        error = self._master.error
        how = f"ended on an error: {error!r}" if error else "was stopped while train() was running"
        raise MasterLost(f"the master {how}") from error

    def _look(self, report: Report, number: int, progress: Progress) -> None:
        now = time.monotonic()
        self._feed(report, number, progress, due=now - self._fed_at >= REPORT_S)
        if report.fatal is not None:
            raise fatal_error(report.fatal) from self._cause()
        options = self._options
        if options.max_updates is not None and self.result.applied >= options.max_updates:
            raise _Enough(f"max_updates={options.max_updates} was reached")
        self._evaluate()
        if options.timeout_s is not None and now - self._started > options.timeout_s:
            done = self._engine.partitions - len(report.missing)
            raise TrainTimeout(
                f"timeout_s={options.timeout_s:g} passed in epoch {number + 1} of "
                f"{options.epochs} with {done} of {self._engine.partitions} partitions complete "
                f"and {self.result.applied:,} updates applied; the model holds these"
            )

    def _evaluate(self) -> None:
        """Keep what an evaluation found; end the run if that is enough."""
        if self._evaluation is None:
            return
        entry = self._evaluation.look(self._figures(), time.monotonic())
        if entry is not None:
            self.result.note(entry)
        if self._evaluation.stop:
            raise _Enough("stop_when was true of an evaluation")

    def _figures(self) -> dict[str, float]:
        return {name: getattr(self.result, name) for name in FIGURES}

    def _cause(self) -> BaseException | None:
        return self._master.error if self._master is not None else None

    def _count(self, report: Report) -> None:
        """Bring `result` up to date with a report."""
        before = self._before or report
        now = TrainResult.between(before, report, time.monotonic() - self._started)
        now.history = self.result.history
        vars(self.result).update(vars(now))

    def _feed(self, report: Report, number: int, progress: Progress, *, due: bool) -> None:
        self._count(report)
        if not due:
            return
        self._fed_at = time.monotonic()
        if self.result.due:
            self.result.note(self._entry(report))
        done = (number + 1) * self._engine.partitions - len(report.missing)
        progress.update(done, report, self.result)
        stats = {**vars(self.result), "staleness_mean": self.result.staleness_mean}
        for callback in self._options.callbacks:
            callback(stats)

    def _entry(self, report: Report) -> dict[str, float]:
        """Return the entry of `history`: running figures, and means since the last entry."""
        means = self._means.since(report) if self._means is not None else {}
        norm = self.result.max_row_norm
        return {**self._figures(), "max_row_norm": norm, **report.policy, **means}


def _settled(report: Report) -> float:
    return report.totals["settled"] - len(report.missing)
