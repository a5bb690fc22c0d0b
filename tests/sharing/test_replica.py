"""A replica of many processes: whole versions only, whoever dies, and one receiver."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.sharing.elsewhere import Elsewhere
from zmqdist.models.base import Schema
from zmqdist.sharing import replica as shared
from zmqdist.sharing import segment
from zmqdist.sharing.replica import SharedReplica
from zmqdist.sharing.segment import Unshareable
from zmqdist.wire.rows import RowSparse

ROWS = 1000
SCHEMA: Schema = {"w": ("<f4", (ROWS, 50)), "b": ("<f8", (3,)), "none": ("<f4", (0, 2))}
SETUP = f"""
import os, signal
import numpy as np
from zmqdist.sharing.replica import SharedReplica
from tests.sharing.test_replica import tree
r = SharedReplica("run", {SCHEMA!r})
def read():
    with r.reading():
        return r.seen(), {{name: a.copy() for name, a in r.arrays.items()}}, r.scalars
"""
DIE_HALF_WAY = """
def half(version, tree):
    r.arrays["w"][:500] = version
    os.kill(os.getpid(), signal.SIGKILL)
r._replica.load = half
"""


def tree(version: int, *, sparse: bool = True) -> dict[str, Any]:
    """Return the tree of a version: all numbers are the version's."""
    w: Any = np.full((ROWS, 50), version, np.float32)
    if sparse:
        w = RowSparse(np.arange(ROWS), w, w.shape)
    return {"arrays": {"w": w, "b": np.full(3, float(version))}, "scalars": {"n": version}}


@pytest.fixture
def mine() -> Iterator[SharedReplica]:
    replica = SharedReplica("run", SCHEMA)
    yield replica
    replica.close()


def version_read(replica: SharedReplica) -> int:
    """Read, and check that all is of one version; return it."""
    with replica.reading():
        seen = replica.seen()
        numbers = {*np.unique(replica.arrays["w"]), *np.unique(replica.arrays["b"])}
        numbers.add(replica.scalars.get("n", 0))
    assert numbers == {max(seen.version, 0)}
    assert not seen.torn
    return seen.version


# ---- versions -----------------------------------------------------------------------------


def test_what_one_writes_another_reads(mine: SharedReplica) -> None:
    assert version_read(mine) == mine.version == -1
    mine.load(3, tree(3), clock=2)
    with Elsewhere(SETUP) as other:
        code = "s, a, n = read(); answer = s.version, s.clock, float(a['w'].sum()), n"
        assert other.do(code) == (3, 2, 3.0 * ROWS * 50, {"n": 3})
        other.do("r.load(4, tree(4), 2)")
    assert version_read(mine) == 4


def test_an_older_version_changes_nothing(mine: SharedReplica) -> None:
    mine.load(4, tree(4), clock=9)
    mine.load(3, tree(3), clock=9)
    mine.load(4, tree(0), clock=0)
    assert version_read(mine) == 4
    assert mine.seen().clock == 9


def test_what_does_not_fit_is_not_written(mine: SharedReplica) -> None:
    mine.load(1, tree(1))
    wrong = tree(2)
    wrong["arrays"]["b"] = np.zeros(4)
    with pytest.raises(ValueError, match="expected float64"):
        mine.load(2, wrong)
    with pytest.raises(KeyError):
        mine.load(2, {"arrays": {"v": np.zeros(3)}, "scalars": {}})
    many = {"arrays": {}, "scalars": {f"n{i}": i for i in range(10_000)}}
    with pytest.raises(Unshareable, match="scalars of"):
        mine.load(2, many)
    assert mine.version == 1
    assert version_read(mine) == 1


def test_runs_and_schemas_are_apart(mine: SharedReplica) -> None:
    mine.load(1, tree(1))
    for run, schema in (("another", SCHEMA), ("run", {**SCHEMA, "none": ("<f4", (0, 3))})):
        other = SharedReplica(run, schema)
        assert other.version == -1
        other.close()


def test_scalars_keep_their_bits(mine: SharedReplica) -> None:
    scalars = {"a": 0.1, "b": 2**70, "c": True, "d": float("inf"), "e": -0.0}
    mine.load(1, {"arrays": {}, "scalars": scalars})
    with mine.reading():
        assert repr(mine.scalars) == repr(scalars)


# ---- in pieces ------------------------------------------------------------------------------


def piece(version: int, first: int, stop: int) -> dict[str, Any]:
    """Return some rows of a version, with the rest of it if these are the last ones."""
    values = np.full((stop - first, 50), version, np.float32)
    part = {"w": RowSparse(np.arange(first, stop), values, (ROWS, 50))}
    return {
        "arrays": {**part, **({"b": np.full(3, float(version))} if stop == ROWS else {})},
        "scalars": {},
    }


def test_pieces_are_no_version_before_the_last_one(mine: SharedReplica) -> None:
    mine.load_piece(3, piece(3, 0, 500))
    with Elsewhere(SETUP) as other:
        assert other.do("s, a, n = read(); answer = s.version") == -1
        mine.load(3, piece(3, 500, ROWS) | {"scalars": {"n": 3}})
        assert other.do("s, a, n = read(); answer = s.version, float(a['w'].sum())") == (
            3,
            3.0 * ROWS * 50,
        )
    assert version_read(mine) == 3


def test_of_pieces_of_several_processes_the_newest_rows_stay(mine: SharedReplica) -> None:
    with Elsewhere(f"{SETUP}from tests.sharing.test_replica import piece\n") as other:
        mine.load_piece(3, piece(3, 0, 300))
        other.do("r.load_piece(5, piece(5, 0, 600))")
        mine.load_piece(4, piece(4, 300, 800))
        assert mine.seen().torn
        mine.load(4, piece(4, 800, ROWS))  # what the other one has written is newer
        assert (mine.version, mine.seen().torn) == (-1, True)
        w = mine.arrays["w"]
        assert [w[0, 0], w[599, 0], w[600, 0], w[800, 0]] == [5, 5, 4, 0]
        other.do("r.load_piece(5, piece(5, 600, 1000))")
        assert mine.version == -1
        other.do("r.load(6, tree(6))")
    assert version_read(mine) == 6


def test_a_piece_changes_nothing_once_there_is_a_version(mine: SharedReplica) -> None:
    mine.load(3, tree(3))
    mine.load_piece(4, piece(4, 0, 500))
    assert version_read(mine) == 3


def test_a_whole_array_spares_what_is_newer(mine: SharedReplica) -> None:
    mine.load_piece(5, piece(5, 0, 10))
    mine.load_piece(4, {"arrays": {"w": tree(4, sparse=False)["arrays"]["w"]}, "scalars": {}})
    mine.load_piece(4, piece(4, 0, 10))
    assert [*mine.arrays["w"][[0, 9, 10, 999], 0]] == [5, 5, 4, 4]


def test_scalars_of_a_piece_stay_unless_there_are_newer_ones(mine: SharedReplica) -> None:
    """The answer that makes pieces of several versions whole has those that changed since."""
    last = piece(5, 500, ROWS) | {"scalars": {"n": 5, "rate": 0.5}}
    mine.load_piece(4, piece(4, 0, 500))
    mine.load_piece(5, last)
    mine.load_piece(4, piece(4, 500, ROWS) | {"scalars": {"n": 4, "rate": 0.25}})
    mine.load(6, tree(6))
    with mine.reading():
        assert mine.scalars == {"n": 6, "rate": 0.5}


# ---- death while writing --------------------------------------------------------------------


def die_writing(version: int) -> None:
    with Elsewhere(SETUP + DIE_HALF_WAY) as other:
        other.begin(f"r.load({version}, tree({version}))")
        other.wait()


def test_a_torn_replica_says_so_and_is_mended(mine: SharedReplica) -> None:
    mine.load(3, tree(3))
    die_writing(7)
    seen = mine.seen()
    assert (seen.version, seen.torn) == (3, True)
    with mine.reading():
        assert mine.seen().torn
    mine.load(5, tree(5))  # rows of 7 may be left
    assert (mine.version, mine.seen().torn) == (3, True)
    mine.load(7, tree(7))
    assert version_read(mine) == 7


def test_one_that_is_being_written_is_not_torn(mine: SharedReplica) -> None:
    mine.load(3, tree(3))
    with Elsewhere(SETUP + "r._replica.load = lambda *_: os.kill(os.getpid(), 19)") as other:
        other.begin("r.load(4, tree(4))")
        while mine._words[shared._WRITING] != 5:
            pass
        assert not mine.seen().torn
        assert mine.version == 3
    assert mine.seen().torn


def test_readers_see_whole_versions_whoever_is_killed(mine: SharedReplica) -> None:
    """Two write, whole arrays or by rows, and are killed wherever they are; two read."""
    read = """
answer = [-1]
while answer[-1] < 60:
    seen, arrays, scalars = read()
    if not seen.torn:
        numbers = {*np.unique(arrays["w"]), *np.unique(arrays["b"]), scalars.get("n", 0)}
        assert numbers == {max(seen.version, 0)}, (numbers, seen)
        answer += [seen.version] if seen.version != answer[-1] else []
"""
    write = """
answer = os.fork()
if not answer:
    r = SharedReplica("run", r.schema)
    for v in range(max(r.version, 0), 61):
        r.load(v, tree(v, sparse=v % 2 == 0))
        pause.wait(0.001)
    pause.wait()
"""
    setup = f"{SETUP}import threading; pause = threading.Event()"
    chance, until = random.Random(1), time.monotonic() + 60
    with Elsewhere(setup) as a, Elsewhere(setup) as b, Elsewhere(setup) as writers:
        a.begin(read)
        b.begin(read)
        while mine.version < 60:
            pair = [writers.do(write) for _ in range(2)]
            goal = min(mine.version + chance.randrange(1, 20), 60)
            while mine.version < goal:
                assert time.monotonic() < until
            for pid in pair:
                os.kill(pid, signal.SIGKILL)
        for versions in (a.end(), b.end()):
            assert versions == sorted(versions)
            assert len(versions) > 3
    while mine.seen().torn or mine.version < 60:
        mine.load(60, tree(60))
    assert version_read(mine) == 60


# ---- the receiver ------------------------------------------------------------------------------


def test_one_receives_and_another_takes_over(mine: SharedReplica) -> None:
    with Elsewhere(SETUP) as other:
        look = "s = r.seen(); answer = s.elected, s.attended, s.asking"
        assert other.do(look) == (True, True, False)
        other.do("r.tell(asking=True, version=-1, clock=0)")
        seen = mine.seen()
        assert (seen.elected, seen.attended, seen.asking) == (False, True, True)
    assert mine.seen().elected
    mine.step_down()
    with Elsewhere(SETUP) as other:
        assert other.do(look) == (True, True, True)


def test_a_receiver_that_is_suspended_counts_as_silent(
    mine: SharedReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Elsewhere(SETUP) as other:
        other.do("r.seen(); r.tell(asking=False, version=-1, clock=0)")
        assert mine.seen().attended
        monkeypatch.setattr(shared, "SILENT_S", 0.0)
        assert not mine.seen().attended
        assert not mine.seen().elected


def test_a_clock_goes_to_its_own_version_only(mine: SharedReplica) -> None:
    mine.load(3, tree(3), clock=1)
    mine.tell(asking=False, version=2, clock=9)
    assert mine.seen().clock == 1
    mine.tell(asking=False, version=3, clock=4)
    mine.tell(asking=False, version=3, clock=2)
    assert mine.seen().clock == 4


# ---- suspended -----------------------------------------------------------------------------------


@pytest.mark.parametrize("begin", ["c = r.reading(); c.__enter__()", "r.load(1, tree(1))"])
def test_one_suspended_inside_does_not_hold_us_up(
    mine: SharedReplica, monkeypatch: pytest.MonkeyPatch, begin: str
) -> None:
    monkeypatch.setattr(segment, "LOCK_S", 0.05)
    stop = "r._replica.load = lambda *_: os.kill(os.getpid(), signal.SIGSTOP)"
    with Elsewhere(SETUP + stop) as other:
        other.begin(f"{begin}; os.kill(os.getpid(), signal.SIGSTOP)")
        while mine._segment.try_lock(shared._ROWS, exclusive=True):
            mine._segment.unlock(shared._ROWS)
        with pytest.raises(Unshareable, match="suspended"):
            mine.load(2, tree(2))
    mine.load(2, tree(2))
    assert version_read(mine) == 2
