"""The record holds each update that came, whatever became of it, and survives crashes."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import Peer, epoch, eventually, serving
from tests.test_docs import table, ticked
from zmqdist import RowSparse, Update, ZmqDist, read_record
from zmqdist.assignment import Assignment
from zmqdist.core.messages import Push
from zmqdist.errors import ConfigError
from zmqdist.record import COLUMNS, HEAD, Record
from zmqdist.staleness import BoundedStaleness, Policy, SoftSync, StalenessAware
from zmqdist.wire.frames import pack
from zmqdist.wire.tree import encode_tree

WAITS = ("wait_ack_s", "wait_gate_s", "wait_model_s")


def model() -> dict[str, Any]:
    return {"w": np.zeros(4), "t": np.zeros((3, 2))}


def gradient(model: Any, rows: list[int]) -> Any:
    if rows == [3]:
        return None
    table = RowSparse([1], np.full((1, 2), 2.0), (3, 2))
    return Update({"w": np.full(4, 0.5), "t": table}, examples=10 * rows[0])


def run(path: Path, rows: int = 6, **options: Any) -> Record:
    with ZmqDist(model(), record=path, **options) as dd:
        dd.train([list(range(rows))], gradient, batch_size=1)
    return read_record(path)


def test_a_row_for_each_update(tmp_path: Path) -> None:
    record = run(tmp_path / "run.csv", max_in_flight=1)
    columns = record.columns
    assert list(columns) == list(COLUMNS)
    assert columns["step"].tolist() == [0, 1, 2, 3, 4, 5]
    assert columns["decision"].tolist() == [*["applied"] * 3, "skipped", "applied", "applied"]
    assert columns["version"].tolist() == [1, 2, 3, 3, 4, 5]
    assert (columns["version"] - columns["base"] - columns["tau"]).tolist() == [
        1,
        1,
        1,
        0,
        1,
        1,
    ]
    assert columns["examples"].tolist() == [0, 10, 20, 1, 40, 50]
    skipped = columns["decision"] == "skipped"
    norm = np.sqrt(4 * 0.25 + 2 * 4.0)
    np.testing.assert_allclose(columns["norm"], np.where(skipped, np.nan, norm))
    np.testing.assert_array_equal(columns["weight"], np.where(skipped, np.nan, 1.0))
    assert (columns["bytes"] > 100).all()
    assert (columns["master_s"] > 0).tolist() == (~skipped).tolist()
    assert (np.diff(columns["time_s"]) >= 0).all()
    for name in ("wait_s", "compute_s", "encode_s", *WAITS):
        assert ((columns[name] >= 0) & (columns[name] < 60)).all()
    assert columns["compute_s"].max() > 0
    assert columns["wait_s"].max() > 0
    np.testing.assert_allclose(sum(columns[name] for name in WAITS), columns["wait_s"], atol=5e-6)
    assert set(columns["run"]) == {record.runs[0]["run"]}
    assert record.runs[0]["policy"] == repr(BoundedStaleness(64, "requeue"))
    assert list(record.workers) == [(record.runs[0]["run"], 1)]
    assert record.torn == 0


def test_it_reads_without_zmqdist(tmp_path: Path) -> None:
    record = run(tmp_path / "run.csv")
    with open(tmp_path / "run.csv") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    assert [int(row["tau"]) for row in rows] == record.columns["tau"].tolist()


def hello(peer: Peer, there: Assignment, partition: int = 0) -> int:
    place = {"run": there.run, "epoch": there.epoch, "partition": partition}
    return int(peer.ask("hello", "welcome", **place, attempt=1, worker="test")["session"])


def push(peer: Peer, session: int, step: int, base: int) -> None:
    message = Push(session, step, base, clock=step, compute_s=0.25)
    peer.raw(*pack(message, encode_tree({"w": np.ones(4)})))
    peer.answer("ack")


@pytest.mark.parametrize(
    ("policy", "decisions", "weights"),
    [
        (BoundedStaleness(0), ["applied", "rejected"], [1, np.nan]),
        (BoundedStaleness(0, "requeue"), ["applied", "requeue"], [1, np.nan]),
        (StalenessAware("inverse1"), ["applied", "applied"], [1, 0.5]),
        (SoftSync(1), ["applied", "applied"], [1, 1]),
    ],
    ids=repr,
)
def test_what_became_of_it(
    tmp_path: Path, policy: Policy, decisions: list[str], weights: list[float]
) -> None:
    path = tmp_path / "run.csv"
    with serving(model(), policy=policy, record=path) as master, epoch(master) as there:
        with Peer(master.address) as peer:
            session = hello(peer, there)
            for step in range(2):
                push(peer, session, step, 0)
                push(peer, session, 0, 0)  # a resend has no row
    columns = read_record(path).columns
    assert columns["decision"].tolist() == decisions
    np.testing.assert_array_equal(columns["weight"], weights)
    assert columns["compute_s"].tolist() == [0.25, 0.25]
    assert columns["tau"].tolist() == [0, 1]


def test_rows_of_a_buffer_come_with_their_flush(tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    policy = SoftSync(1, timeout_s=1000.0)
    with serving(model(), policy=policy, record=path) as master, epoch(master, 2) as there:
        with Peer(master.address) as one, Peer(master.address) as other:
            sessions = [hello(one, there, 0), hello(other, there, 1)]
            push(one, sessions[0], 0, 0)
            assert read_record(path).columns["step"].size == 0
            push(other, sessions[1], 0, 0)
    columns = read_record(path).columns
    assert columns["version"].tolist() == [1, 1]
    assert sorted(columns["partition"].tolist()) == [0, 1]
    assert columns["norm"].tolist() == [2.0, 2.0]


def test_conservation_of_staleness_in_the_record(tmp_path: Path) -> None:
    """What tests/core/test_laws.py says of the state, from the file alone."""
    path = tmp_path / "run.csv"
    policy = BoundedStaleness(1, "requeue")
    with ZmqDist(model(), staleness=policy, record=path, max_in_flight=1) as dd:
        result = dd.train(
            [list(range(30))] * 3, lambda m, rows: {"w": np.ones(4)}, batch_size=1, workers=3
        )
    columns = read_record(path).columns
    applied = columns["decision"] == "applied"
    assert applied.sum() == result.applied == 90
    assert sorted(columns["version"][applied]) == list(range(1, 91))
    histogram = dict(zip(*np.unique(columns["tau"][applied], return_counts=True), strict=True))
    assert histogram == result.staleness
    assert (columns["tau"][~applied] > 1).all()
    assert (~applied).sum() == result.requeued


# ---- files ------------------------------------------------------------------------


def test_runs_follow_each_other(tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    run(path)
    record = run(path, rows=2)
    assert len(record.runs) == 2
    assert [record.columns["run"].tolist().count(r["run"]) for r in record.runs] == [6, 2]
    assert len(record.workers) == 2


@pytest.mark.parametrize("cut", [1, 2, 9, 40])
def test_a_torn_line_is_left_out_and_what_follows_is_not(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "run.csv"
    run(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    record = read_record(path)
    assert (len(record.columns["step"]), record.torn) == (5, 1)
    record = run(path, rows=2)
    assert (len(record.columns["step"]), record.torn) == (7, 1)
    assert len(record.runs) == 2


def test_what_is_no_record_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with (
        pytest.raises(ConfigError, match="is no record of this version"),
        ZmqDist(model(), record=path),
    ):
        pass
    with pytest.raises(ConfigError, match="begins with 'a,b'"):
        read_record(path)
    assert path.read_text() == "a,b\n1,2\n"
    with (
        pytest.raises(ConfigError, match="cannot be written"),
        ZmqDist(model(), record=tmp_path / "no" / "such" / "folder.csv"),
    ):
        pass


def test_a_remote_master_keeps_its_own() -> None:
    with pytest.raises(ConfigError, match="start zmqdist-master with --record"):
        ZmqDist(model(), master="tcp://127.0.0.1:5000", record="run.csv")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_disk_ends_the_record_and_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigError, match="No space left"), serving(model(), record="/dev/full"):
        pass
    with serving(model(), record=tmp_path / "run.csv") as master, epoch(master) as there:
        master._record._file.close()  # type: ignore[attr-defined]
        master._record._file = open("/dev/full", "a")  # type: ignore[attr-defined]
        with Peer(master.address) as peer:
            session = hello(peer, there)
            push(peer, session, 0, 0)
            eventually(lambda: "ends here" in caplog.text, "the error in the log")
            push(peer, session, 1, 1)
        assert master.state.version == 2


def test_a_killed_master_leaves_what_is_older_than_a_second(tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    program = textwrap.dedent(
        f"""
        import numpy as np
        from zmqdist import ZmqDist

        def forever(model, items):
            while True:
                yield {{"w": np.ones(4)}}

        with ZmqDist({{"w": np.zeros(4)}}, record={str(path)!r},
                     staleness="async", progress=False) as dd:
            dd.train([[1]], forever)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", program])
    try:
        eventually(lambda: path.exists() and read_record(path).columns["step"].size > 3, "rows", 60)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    record = read_record(path)
    steps = record.columns["step"]
    assert steps.tolist() == list(range(len(steps)))
    assert len(steps) > 3
    assert record.torn <= 1


# ---- documents --------------------------------------------------------------------


def test_the_page_lists_the_columns_in_order() -> None:
    page = (Path(__file__).parents[1] / "docs" / "record.md").read_text()
    shown = [name for row in table(page) for name in ticked(row[0])]
    assert ",".join(shown) == HEAD
    assert set(ticked(next(row[1] for row in table(page) if row[0] == "`decision`"))) == {
        "applied",
        "rejected",
        "requeue",
        "skipped",
    }
    assert max(len(line) for line in page.splitlines() if not line.startswith("|")) <= 100
    assert re.search(r"format \(1\)", page)
