"""A directory of checkpoints: what was written comes back, and what is damaged does not."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqdist import RowSparse
from zmqdist.checkpoint import store as module
from zmqdist.checkpoint.files import read_json, write_json
from zmqdist.checkpoint.store import KEEP, Store
from zmqdist.errors import CheckpointError, RemoteProtocolError, UpdateError
from zmqdist.wire.apart import join_tree, split_tree

ROOT = Path(__file__).parents[2]


def write(store: Store, version: int, scalars: Any = None, **parts: Any) -> None:
    tree = {"arrays": {"w": np.full((3, 2), float(version))}, **parts}
    spec, arrays = split_tree(tree)
    facts = {
        "run": "run",
        "incarnation": 1,
        "starts": [0, 2],
        "version": version,
        "arrays": {"w": "0.npy"},
        "scalars": {"n": version} if scalars is None else scalars,
        "master": {"version": version},
    }
    store.write(spec, arrays, facts)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "deep" / "checkpoints", "0.1")


# ---- trees ------------------------------------------------------------------------------------


def test_a_tree_comes_back_from_its_parts() -> None:
    tree = {
        "a": np.arange(6.0).reshape(2, 3),
        "rows": RowSparse([1, 3], np.ones((2, 2)), (5, 2)),
        "mixed": [1, 2.5, None, True, "text", (np.int8(3), float("inf"))],
        7: np.zeros((), np.float16),
    }
    spec, arrays = split_tree(tree)
    json.dumps(spec, allow_nan=False)
    assert arrays[0] is tree["a"]
    again = join_tree(spec, arrays)
    assert again["mixed"] == tree["mixed"]
    assert list(again) == list(tree)
    np.testing.assert_array_equal(again["rows"].rows, [1, 3])
    assert again["rows"].shape == (5, 2)
    assert again[7].dtype == np.float16


@pytest.mark.parametrize("spec", [{"array": {}}, {"array": {"number": 2}}, {"array": None}, 1 + 2j])
def test_a_spec_that_does_not_fit_its_arrays(spec: Any) -> None:
    with pytest.raises(RemoteProtocolError):
        join_tree(spec, [np.zeros(1)] * 2)


def test_what_is_no_number_cannot_be_kept() -> None:
    with pytest.raises(UpdateError, match=r"state\['a'\] is an array of object"):
        split_tree({"a": np.array([object()])})


# ---- writing ------------------------------------------------------------------------------------


def test_the_newest_comes_back_and_the_last_few_are_kept(store: Store) -> None:
    assert store.newest() is None
    for version in range(KEEP + 2):
        write(store, version, extra=[version, None])
    assert len(store.names()) == KEEP
    found = store.newest()
    assert found is not None
    assert (found.run, found.incarnation, found.version) == ("run", 1, KEEP + 1)
    assert (found.starts, found.scalars) == ([0, 2], {"n": KEEP + 1})
    assert found.master == {"version": KEEP + 1}
    assert found.tree["extra"] == [KEEP + 1, None]
    np.testing.assert_array_equal(found.tree["arrays"]["w"], np.full((3, 2), KEEP + 1.0))


def test_numbers_that_json_has_not_come_back_too(store: Store) -> None:
    scalars = {
        "n": 3,
        "yes": True,
        "rate": 0.5,
        "best": math.inf,
        "worst": -math.inf,
        "w": math.nan,
    }
    write(store, 1, scalars)
    found = store.newest()
    assert found is not None
    assert repr(dict(sorted(found.scalars.items()))) == repr(dict(sorted(scalars.items())))
    written = read_json(store.folder / "00000001" / "manifest.json")["scalars"]
    assert {name: written[name] for name in ("n", "yes", "rate")} == {"n": 3, "yes": 1, "rate": 0.5}
    assert (written["best"], written["worst"]) == ({"float": "inf"}, {"float": "-inf"})


@pytest.mark.parametrize(
    "entry", [{"float": "x"}, {"float": 1}, {"a": 1}, {"array": {"number": 0}}]
)
def test_numbers_that_are_none_are_damage(store: Store, entry: Any) -> None:
    write(store, 1)
    path = store.folder / "00000001" / "manifest.json"
    write_json(path, read_json(path) | {"scalars": {"n": entry}})
    with pytest.raises(CheckpointError, match="manifest"):
        store.newest()


def test_names_go_on_from_what_is_there(store: Store) -> None:
    write(store, 1)
    store.close()
    again = Store(store.folder)
    write(again, 2)
    assert again.names() == ["00000001", "00000002"]
    again.close()


@pytest.mark.parametrize("fails_at", range(6))
def test_a_write_that_fails_leaves_the_one_before(
    store: Store, fails_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(store, 1)
    calls = 0

    def failing(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > fails_at:
            raise OSError(28, "No space left on device")
        real(*args)

    real = os.fsync
    monkeypatch.setattr(os, "fsync", failing)
    written = False
    with contextlib.suppress(OSError):
        write(store, 2)
        written = True
    monkeypatch.undo()
    found = store.newest()
    assert found is not None
    # Once it has its name it counts, whether or not the disk knows of the name yet.
    assert found.version == (2 if written or calls == 4 else 1)
    assert written or calls <= 4
    assert not list(store.folder.glob(".partial*"))
    write(store, 3)
    assert store.newest().version == 3  # type: ignore[union-attr]


def test_a_full_disk_leaves_the_one_before(store: Store) -> None:
    """RLIMIT_FSIZE stands for the disk: the kernel refuses to let the file grow."""
    write(store, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, limits[1]))
        with pytest.raises(OSError, match="File too large"):
            write(store, 2, large=np.zeros(1 << 16))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert store.newest().version == 1  # type: ignore[union-attr]
    assert [path.name for path in store.folder.glob(".partial*")] == []


def test_what_a_crash_left_half_done_is_removed(store: Store) -> None:
    write(store, 1)
    (store.folder / ".partial-00000002").mkdir()
    (store.folder / ".partial-00000002" / "0.npy").write_bytes(b"half")
    (store.folder / ".partial-journal.json").write_text("{")
    store.close()
    again = Store(store.folder)
    assert sorted(path.name for path in again.folder.iterdir()) == ["00000001", "lock"]
    again.close()


# ---- reading what was damaged --------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    octets = bytearray(path.read_bytes())
    octets[len(octets) // 2] ^= 1
    path.write_bytes(bytes(octets))


@pytest.mark.parametrize("harm", [cut, flip, Path.unlink], ids=["cut", "flip", "gone"])
@pytest.mark.parametrize("name", ["manifest.json", "0.npy"])
def test_damage_is_noticed_and_the_one_before_is_taken(
    store: Store, harm: Any, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(store, 1)
    write(store, 2)
    harm(store.folder / "00000002" / name)
    found = store.newest()
    assert found is not None
    assert found.version == 1
    assert re.search("00000002 is of no use: .*(damaged|bytes|cannot read)", caplog.text)
    harm(store.folder / "00000001" / name)
    with pytest.raises(CheckpointError, match=r"no checkpoint of .* can be used") as caught:
        store.newest()
    assert "00000001" in str(caught.value)
    assert "00000002" in str(caught.value)


@given(st.data())
def test_any_flipped_bit_of_json_is_noticed(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.json"
        content = {"version": 120, "list": [1, None, "text"], "number": 0.25}
        write_json(path, content)
        assert read_json(path) == content
        octets = bytearray(path.read_bytes())
        place = data.draw(st.integers(0, len(octets) - 1))
        octets[place] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(bytes(octets))
        found = content
        with contextlib.suppress(CheckpointError):
            found = read_json(path)
        assert found == content  # also if a blank between the two parts was hit


def test_another_format_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    write(store, 1)
    store.note({"run": "run"})
    monkeypatch.setattr(module, "FORMAT", 3)
    with pytest.raises(CheckpointError, match=r"zmqdist 0\.1 in format 2; this version reads form"):
        store.newest()
    with pytest.raises(CheckpointError, match="in format 2; this version reads format 3"):
        store.journal()


def test_a_damaged_journal_is_refused(store: Store) -> None:
    assert store.journal() is None
    store.note({"run": "run"})
    assert store.journal() == {"format": 2, "run": "run"}
    flip(store.folder / "journal.json")
    with pytest.raises(CheckpointError, match="damaged"):
        store.journal()


# ---- the directory ----------------------------------------------------------------------------


def test_two_masters_cannot_use_one_directory(store: Store) -> None:
    owner = rf"in use by another master \(.* process {os.getpid()}\)"
    with pytest.raises(CheckpointError, match=owner):
        Store(store.folder)
    store.close()
    Store(store.folder).close()


def test_a_process_that_is_killed_lets_go(tmp_path: Path) -> None:
    program = f"""
import sys
from zmqdist.checkpoint.store import Store
store = Store({str(tmp_path)!r})
print("open", flush=True)
sys.stdin.read()
"""
    order = [sys.executable, "-c", program]
    with subprocess.Popen(
        order, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(CheckpointError, match=f"process {other.pid}"):
            Store(tmp_path)
        other.kill()
        other.wait()
    Store(tmp_path).close()


def test_a_directory_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"file/below cannot be used: .*local directory"):
        Store(tmp_path / "file" / "below")
    if os.geteuid() != 0:
        tmp_path.chmod(0o500)
        with pytest.raises(CheckpointError, match="Permission denied"):
            Store(tmp_path / "none")
    with pytest.raises(CheckpointError, match="cannot be used"):
        Store("/proc/none")
