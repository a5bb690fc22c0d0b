"""Studies in an SQLite file: nothing that is finished gets lost.

Each change is a transaction, with a write-ahead log, so that others can read while one process
writes, and what was committed survives a crash. Only one process at a time may add trials: it
holds a lock that ends with it, so trials that it left running are known to be dead.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from zmqdist.errors import StorageError
from zmqdist.tuning.trial import FrozenTrial, Params, TrialState

APPLICATION_ID = 0x7A6D7174
"""Marks an SQLite file as ours ("zmqt")."""

SCHEMA_VERSION = 1
"""Of the tables below; a storage of another version is refused."""

SCHEMA = """
CREATE TABLE studies (
    study_id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    settings TEXT NOT NULL,
    created TEXT NOT NULL
);
CREATE TABLE trials (
    study_id INTEGER NOT NULL REFERENCES studies,
    number INTEGER NOT NULL,
    state TEXT NOT NULL,
    value REAL,
    params TEXT NOT NULL,
    started TEXT,
    finished TEXT,
    PRIMARY KEY (study_id, number)
);
CREATE TABLE reports (
    study_id INTEGER NOT NULL,
    number INTEGER NOT NULL,
    step REAL NOT NULL,
    value REAL NOT NULL,
    PRIMARY KEY (study_id, number, step),
    FOREIGN KEY (study_id, number) REFERENCES trials
);
CREATE TABLE attrs (
    study_id INTEGER NOT NULL,
    number INTEGER NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (study_id, number, key),
    FOREIGN KEY (study_id, number) REFERENCES trials
);
CREATE TABLE outcomes (
    study_id INTEGER NOT NULL,
    number INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    PRIMARY KEY (study_id, number),
    FOREIGN KEY (study_id, number) REFERENCES trials
);
"""

SELECT_TRIALS = """
SELECT number, state, params, value, started, finished FROM trials
WHERE study_id = ? AND number >= ? ORDER BY number"""

SELECT_REPORTS = """
SELECT number, step, value FROM reports
WHERE study_id = ? AND number >= ? ORDER BY number, step"""

SELECT_ATTRS = "SELECT number, key, value FROM attrs WHERE study_id = ? AND number >= ?"


class Storage:
    """The studies of one SQLite file.

    Parameters
    ----------
    path : path, optional
        The file, also as ``sqlite:///FILE``; made if it is missing. None keeps all in memory.
    must_exist : bool, default=False
        Refuse a file that is not there.

    Raises
    ------
    StorageError
        The file is no storage of studies, of another version, or cannot be opened.
    """

    def __init__(self, path: str | Path | None = None, *, must_exist: bool = False) -> None:
        self.path = None if path is None else Path(str(path).removeprefix("sqlite:///"))
        self._lock: IO[str] | None = None
        if must_exist and self.path is not None and not self.path.exists():
            raise StorageError(
                f"there is no storage {self.path}; run the study first, or name its file with "
                "--storage"
            )
        try:
            self._db = sqlite3.connect(
                ":memory:" if self.path is None else self.path,
                timeout=30.0,
                isolation_level=None,
                check_same_thread=False,  # evaluations are reported while `train` waits
            )
        except sqlite3.Error as error:
            raise StorageError(f"cannot open the storage {self.path}: {error}") from None
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        try:
            (application,) = self._db.execute("PRAGMA application_id").fetchone()
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.Error as error:
            raise StorageError(
                f"{self.path} is no storage of studies: {error}; name another file"
            ) from None
        if application != APPLICATION_ID and (application or version or tables):
            raise StorageError(
                f"{self.path} is an SQLite file of another program; name another file"
            )
        if application == APPLICATION_ID and version != SCHEMA_VERSION:
            raise StorageError(
                f"the storage {self.path} is of version {version}, this zmqdist reads and writes "
                f"version {SCHEMA_VERSION}; use the zmqdist that made it, or name another file. "
                "Nothing in it was changed"
            )
        self._db.execute("PRAGMA foreign_keys = ON")
        if application == APPLICATION_ID:
            return
        if self.path is not None:
            self._db.execute("PRAGMA journal_mode = WAL")
        with self._change(durable=True) as db:
            if db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,):
                return  # another process was faster
            for statement in SCHEMA.split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def close(self) -> None:
        """Close the file; finished trials are in it."""
        self._db.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def lock(self) -> None:
        """Become the one process that adds trials, until `close`.

        Raises
        ------
        StorageError
            Another process is at work on this file.
        """
        if self.path is None or self._lock is not None:
            return
        file = self.path.with_name(f"{self.path.name}.lock").open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            owner = file.read() or "unknown"
            file.close()
            raise StorageError(
                f"process {owner} is at work on {self.path}; wait for its end, stop it, or name "
                "another file"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._lock = file

    @contextmanager
    def _change(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """Make one transaction; a durable one is on the disk when this ends."""
        self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        try:  # Ctrl-C comes at any point, also as soon as the transaction has begun
            self._db.execute("BEGIN IMMEDIATE")
            yield self._db
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    # ---- studies ---------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Return the names of all studies, oldest first."""
        return [name for (name,) in self._db.execute("SELECT name FROM studies ORDER BY study_id")]

    def create_study(self, name: str, settings: dict[str, Any]) -> None:
        """Add a study."""
        with self._change(durable=True) as db:
            db.execute(
                "INSERT INTO studies (name, settings, created) VALUES (?, ?, ?)",
                (name, json.dumps(settings), _now()),
            )

    def study(self, name: str) -> tuple[int, dict[str, Any]] | None:
        """Return id and settings of a study; None if there is none."""
        query = "SELECT study_id, settings FROM studies WHERE name = ?"
        row = self._db.execute(query, (name,)).fetchone()
        return None if row is None else (row[0], json.loads(row[1]))

    def change_settings(self, study: int, settings: dict[str, Any]) -> None:
        """Replace a study's settings."""
        with self._change(durable=True) as db:
            db.execute(
                "UPDATE studies SET settings = ? WHERE study_id = ?", (json.dumps(settings), study)
            )

    # ---- trials ----------------------------------------------------------------------------

    def add_trial(self, study: int, state: TrialState, params: Params) -> int:
        """Add a trial and return its number."""
        started = _now() if state is TrialState.RUNNING else None
        with self._change() as db:
            query = "SELECT coalesce(max(number), -1) + 1 FROM trials WHERE study_id = ?"
            (number,) = db.execute(query, (study,)).fetchone()
            db.execute(
                "INSERT INTO trials (study_id, number, state, params, started) "
                "VALUES (?, ?, ?, ?, ?)",
                (study, number, state, json.dumps(params), started),
            )
        return int(number)

    def take_waiting(self, study: int) -> tuple[int, Params] | None:
        """Start the oldest trial that waits; return its number and setting."""
        with self._change() as db:
            row = db.execute(
                "SELECT number, params FROM trials WHERE study_id = ? AND state = ? "
                "ORDER BY number LIMIT 1",
                (study, TrialState.WAITING),
            ).fetchone()
            if row is None:
                return None
            db.execute(
                "UPDATE trials SET state = ?, started = ? WHERE study_id = ? AND number = ?",
                (TrialState.RUNNING, _now(), study, row[0]),
            )
        return int(row[0]), json.loads(row[1])

    def report(self, study: int, number: int, step: float, value: float) -> None:
        """Keep an intermediate value."""
        with self._change() as db:
            db.execute(
                "INSERT OR REPLACE INTO reports VALUES (?, ?, ?, ?)", (study, number, step, value)
            )

    def set_attr(self, study: int, number: int, key: str, value: Any) -> None:
        """Keep a fact about a trial."""
        with self._change() as db:
            db.execute(
                "INSERT OR REPLACE INTO attrs VALUES (?, ?, ?, ?)",
                (study, number, key, json.dumps(value)),
            )

    def finish(
        self,
        study: int,
        number: int,
        state: TrialState,
        value: float | None,
        attrs: dict[str, Any],
        outcome: dict[str, Any] | None,
    ) -> bool:
        """End a running trial with all that came out; False if it is not running."""
        with self._change(durable=True) as db:
            changed = db.execute(
                "UPDATE trials SET state = ?, value = ?, finished = ? "
                "WHERE study_id = ? AND number = ? AND state = ?",
                (state, value, _now(), study, number, TrialState.RUNNING),
            ).rowcount
            if not changed:
                return False
            for key, fact in attrs.items():
                db.execute(
                    "INSERT OR REPLACE INTO attrs VALUES (?, ?, ?, ?)",
                    (study, number, key, json.dumps(fact)),
                )
            if outcome is not None:
                db.execute(
                    "INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?)",
                    (study, number, json.dumps(outcome)),
                )
        return True

    def outcome(self, study: int, number: int) -> dict[str, Any] | None:
        """Return what came out of a trial in full; None if nothing was kept."""
        query = "SELECT outcome FROM outcomes WHERE study_id = ? AND number = ?"
        row = self._db.execute(query, (study, number)).fetchone()
        return None if row is None else json.loads(row[0])

    def trials(self, study: int, start: int = 0) -> list[FrozenTrial]:
        """Return the trials of a study by number, from number `start` on."""
        reports: dict[int, dict[float, float]] = {}
        attrs: dict[int, dict[str, Any]] = {}
        which = (study, start)
        with closing(self._db.cursor()) as cursor:
            for number, step, value in cursor.execute(SELECT_REPORTS, which):
                reports.setdefault(number, {})[step] = value
            for number, key, text in cursor.execute(SELECT_ATTRS, which):
                attrs.setdefault(number, {})[key] = json.loads(text)
            return [
                FrozenTrial(
                    number=number,
                    state=TrialState(state),
                    params=json.loads(params),
                    value=value,
                    intermediate_values=reports.get(number, {}),
                    user_attrs=attrs.get(number, {}),
                    datetime_start=datetime.fromisoformat(started) if started else None,
                    datetime_complete=datetime.fromisoformat(finished) if finished else None,
                )
                for number, state, params, value, started, finished in cursor.execute(
                    SELECT_TRIALS, which
                )
            ]


def _now() -> str:
    return datetime.now(UTC).isoformat()
