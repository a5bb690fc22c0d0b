"""The record of a run: one row per update that came to the master.

A text file, only ever appended to: comma separated values under a line of names, and lines
that begin with ``#`` and hold one JSON object each, about a run or a worker. Any program that
reads CSV reads it (`pandas.read_csv(path, comment="#")`), rows cost few microseconds, and what a
crash tears is the last line alone. A database would cost a transaction per second and a reader
of its own, JSON lines twice the bytes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zmqdist.core.actions import Action, Apply, Send
from zmqdist.core.ledger import Key
from zmqdist.core.messages import Ack, Message, Push
from zmqdist.core.sessions import Session, Sessions
from zmqdist.errors import ConfigError
from zmqdist.wire.leaves import tree_norm

log = logging.getLogger(__name__)

FORMAT = 1
"""Version of the format; a file of another one is not appended to, nor read."""

FLUSH_S = 1.0
"""Longest that a row stays in memory, in seconds: what a crash can lose."""

COLUMNS: dict[str, type] = {
    "time_s": float,
    "run": str,
    "epoch": int,
    "partition": int,
    "step": int,
    "worker": int,
    "clock": int,
    "base": int,
    "version": int,
    "tau": int,
    "weight": float,
    "decision": str,
    "examples": int,
    "norm": float,
    "wait_s": float,
    "compute_s": float,
    "encode_s": float,
    "master_s": float,
    "bytes": int,
    "wait_ack_s": float,
    "wait_gate_s": float,
    "wait_model_s": float,
}
"""The columns, in order, and what is in them."""

HEAD = ",".join(COLUMNS)

_LAST = re.compile(r"\d+\.\d{6}")  # of a line that was written to its end


class NoRecord:
    """What a master tells of its updates; this one keeps nothing of it."""

    def arrived(self, size_bytes: int) -> None:
        """Note that a message of so many bytes has come in and is being handled."""

    def answered(self, message: Message, actions: list[Action], sessions: Sessions) -> None:
        """Write the row of the update that arrived last if it was turned down or empty."""

    def taken(self, key: Key, update: Any) -> None:
        """Note that the update that arrived last was decoded and taken in."""

    def applied(self, action: Apply, version: int) -> None:
        """Write the row of an update that is in the model as of `version`."""

    def tick(self, now: float) -> None:
        """Give rows that have waited for long enough to the operating system."""

    def close(self) -> None:
        """Write what is left and close the file."""


class Recorder(NoRecord):
    """Appends to a record; belongs to the master's thread.

    Parameters
    ----------
    path : path
        Made if it is not there; otherwise the run is appended.
    run : str
        The run's name.
    about : dict
        JSON values that describe the run.

    Raises
    ------
    ConfigError
        The file cannot be written, or is something else.
    """

    def __init__(self, path: str | Path, run: str, about: dict[str, Any]) -> None:
        self._path, self._run = path, run
        self._failed = False
        self._began = self._flushed = self._arrived = time.monotonic()
        self._size_bytes = 0
        self._workers: set[int] = set()
        self._taken: dict[Key, tuple[int, float, float]] = {}
        first = {"record": FORMAT, "run": run, "time": time.time(), **about}
        try:
            text = _opening(Path(path))
            self._file = open(path, "a", encoding="utf-8", buffering=1 << 16)
            try:
                self._file.write(f"{text}# {json.dumps(first)}\n")
                self._file.flush()
            except OSError:
                self._failed = True
                self.close()
                raise
        except OSError as error:
            raise ConfigError(f"record {str(path)!r} cannot be written: {error}") from None

    def arrived(self, size_bytes: int) -> None:
        """Note that a message of so many bytes has come in and is being handled."""
        self._arrived, self._size_bytes = time.monotonic(), size_bytes

    def taken(self, key: Key, update: Any) -> None:
        """Note that the update that arrived last was decoded and taken in."""
        master_s = time.monotonic() - self._arrived
        self._taken[key] = self._size_bytes, tree_norm(update), master_s

    def applied(self, action: Apply, version: int) -> None:
        """Write the row of an update that is in the model as of `version`."""
        taken = self._taken.pop(action.key, (0, math.nan, 0.0))
        self._write(
            action.session, action.push, "applied", version, action.tau, action.weight, taken
        )

    def answered(self, message: Message, actions: list[Action], sessions: Sessions) -> None:
        """Write the row of the update that arrived last if it was turned down or empty."""
        session = sessions.get(message.session) if isinstance(message, Push) else None
        if not isinstance(message, Push) or session is None:
            return
        for action in actions:
            ack = action.message if isinstance(action, Send) else None
            if isinstance(ack, Ack) and not ack.duplicate:
                taken = self._size_bytes, math.nan, 0.0
                tau = ack.version - message.base
                self._write(session, message, ack.outcome, ack.version, tau, math.nan, taken)

    def _write(
        self,
        session: Session,
        push: Push,
        decision: str,
        version: int,
        tau: int,
        weight: float,
        taken: tuple[int, float, float],
    ) -> None:
        if session.number not in self._workers:
            self._workers.add(session.number)
            self._note({"run": self._run, "worker": session.number, "name": session.worker})
        size_bytes, norm, master_s = taken
        wait_s = push.wait_ack_s + push.wait_gate_s + push.wait_model_s
        self._put(
            f"{time.monotonic() - self._began:.6f},{self._run},{session.epoch},"
            f"{session.partition},{push.step},{session.number},{push.clock},{push.base},{version},"
            f"{tau},{weight:.9g},{decision},{push.examples},{norm:.9g},{wait_s:.6f},"
            f"{push.compute_s:.6f},{push.encode_s:.6f},{master_s:.6f},{size_bytes},"
            f"{push.wait_ack_s:.6f},{push.wait_gate_s:.6f},{push.wait_model_s:.6f}\n"
        )

    def tick(self, now: float) -> None:
        """Give rows that have waited for long enough to the operating system."""
        if now - self._flushed >= FLUSH_S:
            self._flushed = now
            self._put("", flush=True)

    def close(self) -> None:
        """Write what is left and close the file."""
        self._put("", flush=True)
        with contextlib.suppress(OSError):
            self._file.close()

    def _note(self, fact: dict[str, Any]) -> None:
        self._put(f"# {json.dumps(fact)}\n")

    def _put(self, text: str, *, flush: bool = False) -> None:
        """Write; a full disk ends the record, not the run."""
        if self._failed:
            return
        try:
            self._file.write(text)
            if flush:
                self._file.flush()
        except OSError as error:
            self._failed = True
            log.error("the record in %s ends here, the run goes on: %s", self._path, error)


def begin_record(path: str | Path | None, run: str, about: dict[str, Any]) -> NoRecord:
    """Return what keeps the record of a run: nothing, without a path. See `Recorder`."""
    return NoRecord() if path is None else Recorder(path, run, about)


def _opening(path: Path) -> str:
    """Return what a file needs before the next run's first line."""
    if not path.exists() or not path.stat().st_size:
        return f"{HEAD}\n"
    with path.open("rb") as file:
        head = file.readline().decode("utf-8", "replace").rstrip("\n")
        file.seek(-1, 2)
        whole = file.read() == b"\n"
    if head != HEAD:
        raise ConfigError(
            f"record {str(path)!r} is there and is no record of this version of zmqdist; name "
            "another file"
        )
    return "" if whole else "~\n"  # ends the line that a crash tore, and marks it


@dataclass(frozen=True)
class Record:
    """What `read_record` found.

    Attributes
    ----------
    columns : dict of str to ndarray
        One entry per row, in the order of the file; for the names see `COLUMNS`.
    runs : list of dict
        What the record says of each run, in order.
    workers : dict of (str, int) to str
        Names of the workers, by run and number.
    torn : int
        Lines left out because a crash cut them off.
    """

    columns: dict[str, NDArray[Any]]
    runs: list[dict[str, Any]]
    workers: dict[tuple[str, int], str]
    torn: int


def read_record(path: str | Path) -> Record:
    """Read a record that `ZmqDist(record=...)` or ``zmqdist-master --record`` wrote.

    May be called while the run goes on.

    Parameters
    ----------
    path : path

    Returns
    -------
    Record

    Raises
    ------
    ConfigError
        The file is no record of this version.
    """
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    head, _, body = text.partition("\n")
    if text and head != HEAD:  # one that has just begun is empty
        raise ConfigError(
            f"{str(path)!r} is no record of this version of zmqdist: it begins with {head[:60]!r}"
        )
    runs: list[dict[str, Any]] = []
    workers: dict[tuple[str, int], str] = {}
    rows: list[list[str]] = []
    lines = body.split("\n")
    torn = int(bool(lines.pop()))  # what stands behind the last end of line
    for line in lines:
        if not line.startswith("#"):
            row = line.split(",")
            whole = len(row) == len(COLUMNS) and bool(_LAST.fullmatch(row[-1]))
            torn += bool(line) and not whole
            rows += [row] if whole else []
            continue
        try:
            fact = json.loads(line[1:])
        except ValueError:
            torn += 1
            continue
        if "worker" in fact:
            workers[fact["run"], fact["worker"]] = fact["name"]
        else:
            runs.append(fact)
    columns: dict[str, NDArray[Any]] = {
        name: np.array([row[i] for row in rows], dtype=np.str_ if kind is str else kind)
        for i, (name, kind) in enumerate(COLUMNS.items())
    }
    return Record(columns, runs, workers, torn)
