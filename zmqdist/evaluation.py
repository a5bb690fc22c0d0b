"""Evaluation beside the training: `evaluate` runs on copies of published versions.

One at a time, each in a thread of its own with a connection of its own. The master
answers one pull and goes on applying updates.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from zmqdist.driver import Driver
from zmqdist.errors import EvaluationError, ZmqdistError
from zmqdist.models.base import as_scalar, parameters_of
from zmqdist.models.snapshot import Replica
from zmqdist.models.structure import load_structure
from zmqdist.options import Evaluate, StopWhen
from zmqdist.result import TAKEN

log = logging.getLogger(__name__)

Entry = dict[str, float]

SHARE = 0.1
"""Part of the time that evaluation may take if no interval is given."""


class Evaluation:
    """Evaluates a model while it is trained.

    Belongs to the thread that trains; only `evaluate` and `stop_when` run elsewhere.

    Parameters
    ----------
    evaluate : callable (model) -> number or dict of numbers
    stop_when : callable (entry) -> bool, or None
    every_s : float or None
        From the start of one evaluation to that of the next, in seconds; None takes
        `SHARE` of the time.
    payload : bytes
        What `zmqdist.models.structure.dump_structure` returned for the model.
    connect : callable () -> Driver
        Makes a connection to the master, in the thread that uses it.

    Attributes
    ----------
    stop : bool
        Whether `stop_when` was true of an evaluation.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        stop_when: StopWhen | None,
        every_s: float | None,
        payload: bytes,
        connect: Callable[[], Driver],
    ) -> None:
        self._evaluate, self._stop_when, self._every_s = evaluate, stop_when, every_s
        self._model = load_structure(payload)[0]
        self._parameters = parameters_of(self._model)
        self._connect = connect
        self._run, self._replica = "", Replica(self._parameters.schema())
        self._evaluated = -1
        self._due = -math.inf
        self._ended: threading.Event | None = None
        self._entry: Entry | None = None
        self._failure: EvaluationError | None = None
        self._last: Entry = {}
        self.stop = False

    def look(self, figures: Mapping[str, float], now: float) -> Entry | None:
        """Take in an evaluation that has ended; begin one if it is due.

        Parameters
        ----------
        figures : mapping of str to float
            How the training stands, for the entry of an evaluation that begins.
        now : float
            Clock reading, in seconds.

        Returns
        -------
        dict or None
            An entry for the history: the figures, those of `evaluate`, the version
            that they are of, and `evaluation_s`.

        Raises
        ------
        EvaluationError
            The first evaluation failed. Later failures are logged.
        """
        entry = self._take()
        if self._failure is not None and not self._last:
            raise self._failure
        if self._ended is None and now >= self._due:
            self._begin(figures, 0)
        return entry

    def finish(
        self, figures: Mapping[str, float], version: int, until: float = math.inf
    ) -> list[Entry]:
        """Evaluate the final model, which failures do not take away: they are logged.

        Parameters
        ----------
        figures : mapping of str to float
        version : int
            The final version. If it is evaluated already, its figures are repeated.
        until : float
            When to give up waiting for `evaluate`, by the clock.

        Returns
        -------
        list of dict
            Entries as of `look`, that of an evaluation under way included.
        """
        entries = [self._wait(until)]
        if self._ended is None and self._last.get("version") == version:
            entries.append({**self._last, **figures})
        elif self._ended is None:
            self._begin(figures, version)
            entries.append(self._wait(until))
        return [entry for entry in entries if entry is not None]

    # ---- in the thread that trains --------------------------------------------------------

    def _begin(self, figures: Mapping[str, float], version: int) -> None:
        self._ended = ended = threading.Event()  # a join cannot be interrupted safely

        def work() -> None:
            try:
                self._work(dict(figures), version)
            finally:
                ended.set()

        threading.Thread(target=work, name="zmqdist-evaluation", daemon=True).start()

    def _wait(self, until: float) -> Entry | None:
        if self._ended is not None:
            left_s = max(0.0, until - time.monotonic())
            if not self._ended.wait(None if math.isinf(left_s) else left_s):
                log.warning("evaluate takes longer than the run may; nobody waits for it")
        return self._take()

    def _take(self) -> Entry | None:
        """Return the entry of an evaluation that has ended."""
        if self._ended is None or not self._ended.is_set():
            return None
        self._ended = None
        entry, self._entry = self._entry, None
        self._last = entry or self._last
        return entry

    # ---- in the thread of an evaluation -----------------------------------------------------

    def _work(self, entry: Entry, version: int) -> None:
        started = time.monotonic()
        self._failure = None
        try:
            self._pull(version)
            if self._replica.version != self._evaluated:
                self._entry = self._evaluated_now(entry)
        except EvaluationError as error:
            self._failure = error
            log.error("%s", error)
        except ZmqdistError as error:  # whoever trains meets it too
            log.warning("no version to evaluate: %s", error)
        ended = time.monotonic()
        pause_s = (ended - started) * (1 / SHARE - 1)
        self._due = ended + pause_s if self._every_s is None else started + self._every_s

    def _pull(self, version: int) -> None:
        """Bring the replica to the newest published version, at least `version`."""
        driver = self._connect()
        try:
            run = driver.pull(self._replica, version)
            if run != self._run:  # the first, or of a master that was started again
                self._run, self._replica = run, Replica(self._replica.schema)
                driver.pull(self._replica, version)
        finally:
            driver.close()
        self._parameters.load(self._replica.arrays, self._replica.scalars)

    def _evaluated_now(self, entry: Entry) -> Entry:
        entry["version"] = self._evaluated = self._replica.version
        started = time.monotonic()
        try:
            entry |= _figures(self._evaluate(self._model))
            entry["evaluation_s"] = time.monotonic() - started
            self.stop |= self._stop_when is not None and bool(self._stop_when(dict(entry)))
        except Exception as error:  # the user's code may raise anything
            where = "evaluate" if "evaluation_s" not in entry else "stop_when"
            trace = "" if isinstance(error, EvaluationError) else f"\n{traceback.format_exc()}"
            raise EvaluationError(
                f"{where} failed on version {self._evaluated}: {type(error).__name__}: {error}"
                f"{trace}",
                version=self._evaluated,
            ) from error
        log.info("evaluated %s", entry)
        return entry


def _figures(found: Any) -> Entry:
    """Return what `evaluate` returned as figures by name."""
    named = found if isinstance(found, Mapping) else {"score": found}
    figures = {str(name): as_scalar(value) for name, value in named.items()}
    for name, value in figures.items():
        if value is None:
            got = type(named.get(name)).__name__
            raise EvaluationError(f"{name!r} is a {got}; expected a number or a dict of numbers")
        if name in TAKEN:
            raise EvaluationError(f"{name!r} has its meaning in a history; give it another name")
    return {name: float(value) for name, value in figures.items() if value is not None}
