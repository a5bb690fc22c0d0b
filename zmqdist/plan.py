"""One `train()` as the master keeps it: its epochs, and the checkpoint that has all of them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from zmqdist.core.messages import Begun, Report
from zmqdist.driver import Driver
from zmqdist.errors import ConfigError, RemoteProtocolError
from zmqdist.options import TrainOptions

log = logging.getLogger(__name__)

LOOK_S = 0.1
"""How often the driver asks how things stand, in seconds."""


class Plan:
    """The epochs of one `train()`, at a master that may be restarted meanwhile.

    Parameters
    ----------
    driver : Driver
    options : TrainOptions
    partitions : int
    worker_key : str
        Public key of the workers, "" without keys.
    alive : callable
        Raises if the master is known to be gone.

    Attributes
    ----------
    program : str
        Name of the driver's program: the interrupted one's once it goes on with that.
    run : str
        The run's name.
    saves : bool
        Whether the master writes checkpoints.
    before : Report or None
        The counters when the `train()` began, perhaps in an earlier life of the master.
    incarnation : int
        The master's, when it was last asked.
    """

    def __init__(
        self,
        driver: Driver,
        options: TrainOptions,
        partitions: int,
        worker_key: str,
        alive: Callable[[], None],
    ) -> None:
        self.program, self.run, self.saves = options.program, "", False
        self.before: Report | None = None
        self.incarnation = -1
        self._driver = driver
        self._options = options
        self._partitions = partitions
        self._worker_key = worker_key
        self._alive = alive
        self._epoch = -1

    def begin(self, number: int) -> Begun | None:
        """Begin an epoch or go on with it; None if the whole `train()` was over before.

        Raises
        ------
        ConfigError
            It was begun with data of another shape.
        """
        options = self._options
        try:
            begun = self._driver.begin(
                self._partitions,
                self._worker_key,
                program=self.program,
                train=options.train,
                number=number,
                steps=options.steps,
                resume=options.resume,
            )
        except RemoteProtocolError as error:
            raise ConfigError(str(error)) from None
        known, self._epoch = self._epoch >= 0, begun.epoch
        self.program, self.run = begun.program, begun.run
        if self.before is None:
            self.before = Report(0, 0, 0, [], failures=[], **begun.before)
        if begun.epoch >= 0:
            return begun
        if not known:
            log.warning(
                "train() number %d of this program was over before the restart: nothing of it is "
                "run again",
                options.train + 1,
            )
        return None

    def status(self, epoch: int) -> Report:
        """Ask how an epoch stands."""
        self._alive()
        report = self._driver.status(epoch)
        self.saves, self.incarnation = report.saved is not None, report.incarnation
        return report

    def keep(self, incarnation: int) -> bool:
        """Say that the `train()` is over, and wait for the checkpoint that has all of it.

        False if the master was restarted since it was this incarnation: then the ledger
        may have lost what was complete.
        """
        report = self._driver.over(self._epoch, incarnation)
        mark = report.changes
        while report.incarnation == incarnation:
            if report.saved is None or report.saved >= mark:
                return True
            if report.trouble:
                log.warning("train() ends without a checkpoint of its end: %s", report.trouble)
                return True
            threading.Event().wait(LOOK_S)
            report = self.status(self._epoch)
        return False
