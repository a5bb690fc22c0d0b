"""Nothing that is finished gets lost; a file that does not fit is refused and left alone."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from zmqdist.errors import StorageError
from zmqdist.tuning import GridSampler, TrialState, create_study, load_study, product_of
from zmqdist.tuning.storage import SCHEMA_VERSION, Storage

PROGRAM = """
import sys
from zmqdist.tuning import GridSampler, create_study, product_of

def objective(trial):
    trial.report(trial.params["x"] / 2, 1.0)
    if trial.number == 3:
        print("busy", flush=True)
        sys.stdin.read()
    return trial.params["x"]

sampler = GridSampler(product_of({"x": list(range(6))}))
with create_study(storage=sys.argv[1], sampler=sampler, study_name="s") as study:
    study.optimize(objective)
"""


@pytest.fixture
def busy(tmp_path: Path) -> subprocess.Popen[str]:
    """A process that has finished trials 0 to 2 of `s.db` and is at the next one."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "s.db")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "busy\n"
        yield process
        process.kill()


def test_a_killed_process_loses_no_finished_trial(
    tmp_path: Path, busy: subprocess.Popen[str]
) -> None:
    busy.send_signal(signal.SIGKILL)
    busy.wait(20)
    sampler = GridSampler(product_of({"x": list(range(6))}))
    with load_study(storage=tmp_path / "s.db", sampler=sampler) as study:
        assert [t.value for t in study.trials] == [0, 1, 2, None]
        assert study.trials[3].state is TrialState.RUNNING
        assert study.trials[3].intermediate_values == {1.0: 1.5}
        assert study.retry_failed() == 1
        assert study.trials[3].state is TrialState.FAIL
        assert study.trials[3].user_attrs["error"].startswith("interrupted")
        study.optimize(lambda trial: trial.params["x"])
        assert [t.params["x"] for t in study.trials] == [0, 1, 2, 3, 3, 4, 5]
        assert [t.value for t in study.trials] == [0, 1, 2, None, 3, 4, 5]


def test_one_process_adds_trials_and_others_look(
    tmp_path: Path, busy: subprocess.Popen[str]
) -> None:
    with load_study(storage=tmp_path / "s.db") as study:
        assert [t.value for t in study.trials] == [0, 1, 2, None]
        with pytest.raises(StorageError, match=f"process {busy.pid} is at work on .*s.db; wait"):
            study.ask()
        assert study.trials[3].state is TrialState.RUNNING, "it is at work, not dead"
        _, _ = busy.communicate("go on", timeout=20)
        assert [t.value for t in study.trials] == [0, 1, 2, 3, 4, 5]
        assert study.ask() is None


def test_storage_of_another_version(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    create_study(storage=path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StorageError, match=r"is of version 2, this zmqdist reads .* version 1;"):
        load_study(storage=path)
    assert path.read_bytes() == before


def test_files_that_are_no_storage(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"there is no storage .*none\.db; run the study first"):
        load_study(storage=tmp_path / "none.db")
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "text").write_text("some text, long enough to be no header of SQLite" * 10)
    with pytest.raises(StorageError, match="is no storage of studies: file is not a database"):
        create_study(storage=tmp_path / "text")
    with sqlite3.connect(tmp_path / "other.db") as db:
        db.execute("CREATE TABLE theirs (a)")
    db.close()
    with pytest.raises(StorageError, match="of another program"):
        create_study(storage=tmp_path / "other.db")
    with pytest.raises(StorageError, match="cannot open the storage"):
        create_study(storage=tmp_path / "no" / "folder.db")


def test_studies_by_name(tmp_path: Path) -> None:
    path = f"sqlite:///{tmp_path / 's.db'}"
    create_study(storage=path, study_name="a", settings={"target": 0.3}).close()
    with load_study(storage=path) as study:
        assert (study.name, study.settings) == ("a", {"target": 0.3})
        study.change_settings({"target": 0.2})
    with pytest.raises(StorageError, match=r"study 'a' is in .* already; load_if_exists=True"):
        create_study(storage=path, study_name="a")
    create_study(storage=path, study_name="a", load_if_exists=True).close()
    create_study(storage=path, study_name="b").close()
    with pytest.raises(StorageError, match=r"has 2 studies, \['a', 'b'\]; name one"):
        load_study(storage=path)
    with pytest.raises(StorageError, match=r"no study 'c' in .*; it has \['a', 'b'\]"):
        load_study(storage=path, study_name="c")
    with load_study(storage=path, study_name="a") as study:
        assert study.settings == {"target": 0.2}


def test_a_transaction_is_whole_or_nothing(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "s.db")
    storage.create_study("s", {})
    number = storage.add_trial(1, TrialState.RUNNING, {})
    with pytest.raises(TypeError, match="not JSON serializable"):
        storage.finish(1, number, TrialState.COMPLETE, 1.0, {"fact": object()}, None)
    (trial,) = storage.trials(1)
    assert (trial.state, trial.value) == (TrialState.RUNNING, None)
    storage.close()


@pytest.mark.parametrize("statement", ["PRAGMA synchronous", "BEGIN", "UPDATE", "COMMIT"])
def test_ctrl_c_at_any_point_leaves_no_transaction(tmp_path: Path, statement: str) -> None:
    """Python raises KeyboardInterrupt once the statement that it came during is done."""

    class Interrupted(sqlite3.Connection):
        def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
            cursor = super().execute(sql, *arguments)
            if sql.startswith(statement):
                raise KeyboardInterrupt
            return cursor

    path = tmp_path / "s.db"
    storage = Storage(path)
    storage.create_study("s", {})
    number = storage.add_trial(1, TrialState.RUNNING, {})
    whole = storage._db
    storage._db = sqlite3.connect(path, isolation_level=None, factory=Interrupted)
    with pytest.raises(KeyboardInterrupt):
        storage.finish(1, number, TrialState.COMPLETE, 1.0, {}, None)
    storage._db, broken = whole, storage._db
    done = statement == "COMMIT"
    assert storage.finish(1, number, TrialState.FAIL, None, {}, None) is not done
    assert not broken.in_transaction
    broken.close()
    storage.close()
