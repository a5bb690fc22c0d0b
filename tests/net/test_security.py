"""Keys: what a key file must be, and where a key must never show."""

from __future__ import annotations

import json
import logging
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from zmqdist import ZmqDist
from zmqdist.assignment import Assignment
from zmqdist.driver import Driver
from zmqdist.engines.job import Job
from zmqdist.errors import ConfigError, MasterUnreachable
from zmqdist.net.security import (
    ClientKeys,
    KeyPair,
    MasterKeys,
    parse_keys,
    read_client_keys,
    read_master_keys,
    write_key_files,
)
from zmqdist.options import MasterOptions

PAIRS = [KeyPair.generate() for _ in range(3)]
GOOD = {
    "zmqdist_keys": 1,
    "server_public": PAIRS[0].public,
    "driver_public": PAIRS[1].public,
    "driver_secret": PAIRS[1].secret,
}


def test_files_are_new_private_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "keys"
    client = write_key_files(path)
    for file in (path, client):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert read_master_keys(path).own.secret not in client.read_text()
    assert read_client_keys(path) == read_client_keys(client)
    with pytest.raises(ConfigError, match="exists already; name another"):
        write_key_files(path)
    write_key_files(tmp_path / "other")
    assert read_client_keys(tmp_path / "other") != read_client_keys(client)


@pytest.mark.parametrize("left", ["keys", "keys.client"])
def test_nothing_is_written_beside_a_file_of_other_keys(tmp_path: Path, left: str) -> None:
    (tmp_path / left).write_text("other keys")
    with pytest.raises(ConfigError, match=f"{left} exists already; name another or remove it"):
        write_key_files(tmp_path / "keys")
    assert [file.name for file in tmp_path.iterdir()] == [left]
    assert (tmp_path / left).read_text() == "other keys"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o666])
def test_files_that_others_can_open_are_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "keys"
    write_key_files(path)
    for file, read in ((path, read_master_keys), (path, read_client_keys)):
        file.chmod(mode)
        with pytest.raises(ConfigError, match=r"can be read by others .*; run: chmod 600"):
            read(file)


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"1" * 5000,
        b"[" * 5000,
        json.dumps({**GOOD, "driver_secret": "short"}).encode(),
        json.dumps({**GOOD, "driver_secret": ["x"] * 40}).encode(),
        json.dumps({**GOOD, "driver_secret": "~" * 40}).encode(),
        json.dumps({**GOOD, "driver_secret": "#" * 40}).encode(),
        json.dumps({**GOOD, "driver_secret": "\u00e9" * 40}).encode(),
        json.dumps({**GOOD, "server_secret": None}).encode(),
        json.dumps(
            {name: value for name, value in GOOD.items() if name != "server_public"}
        ).encode(),
    ],
    ids=lambda octets: octets[:12],
)
def test_what_is_no_key_file(octets: bytes, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this is no zmqdist key file; make one"):
        parse_keys(octets, "this")
    path = tmp_path / "keys"
    path.touch(0o600)
    path.write_bytes(octets)
    with pytest.raises(ConfigError, match="is no zmqdist key file"):
        read_client_keys(path)


def secrets_of(*things: Any) -> set[str]:
    """Return all keys in these objects, however deep."""
    found = set()
    for thing in things:
        if isinstance(thing, KeyPair):
            found |= {thing.public, thing.secret}
        elif isinstance(thing, str):
            found.add(thing)
        else:
            found |= secrets_of(*vars(thing).values())
    return found


def test_no_repr_shows_a_key() -> None:
    client = ClientKeys(PAIRS[0], PAIRS[1].public)
    master = MasterKeys(PAIRS[1], PAIRS[0].public)
    assignment = Assignment("tcp://h:1", "run", 0, {}, keys=client)
    shown = [
        *(repr(thing) + str(thing) for thing in (*PAIRS, client, master, assignment)),
        repr(Job("name", "title", assignment, b"payload")),
        repr(MasterOptions(keys=master)),
    ]
    keys = secrets_of(client, master)
    assert len(keys) == 4
    assert not [key for key in keys for text in shown if key in text]


def test_no_log_and_no_process_shows_a_key(caplog: pytest.LogCaptureFixture) -> None:
    """At level DEBUG, with a stranger at the door, workers and an error."""

    def gradient(model: Any, items: Any) -> Any:
        if list(items) == [2]:
            raise ValueError("as asked")
        return {"n": 1}

    caplog.set_level(logging.DEBUG)
    commands: list[str] = []
    with ZmqDist({"n": 0}) as dd:
        assert dd._client_keys is not None
        keys = secrets_of(dd._client_keys, dd._master.options.keys)  # type: ignore[union-attr]
        stranger = Driver(dd.address, ClientKeys(PAIRS[0], dd._client_keys.server_public), 0.5)
        with pytest.raises(MasterUnreachable):
            stranger.begin(1, "")
        stranger.close()
        look = [lambda stats: commands.extend(command_lines())]
        dd.train([[1]] * 3, gradient, workers=2, callbacks=look)
        assert dd._master is not None
        keys |= set(dd._master._sockets._door.worker_keys())  # type: ignore[union-attr]
        with pytest.raises(Exception, match="as asked") as caught:
            dd.train([[1], [2]], gradient, workers=2)
        text = f"{caught.value!r} {caught.value} {dd!r} {vars(dd)!r} {dd.stats()!r}"
    assert len(keys) >= 5
    assert "refused a connection" in caplog.text
    assert any("local_worker" in command for command in commands)
    shown = [caplog.text, text, *commands]
    assert not [key for key in keys for where in shown if key in where]
    assert PAIRS[0].public not in caplog.text


def command_lines() -> list[str]:
    """Return the arguments and the environment of this process's children."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid():
                found += [(entry / "cmdline").read_text(), (entry / "environ").read_text()]
        except OSError:
            continue
    return found


def test_each_run_has_keys_of_its_own() -> None:
    seen: list[str] = []
    for _ in range(2):
        with ZmqDist({"n": 0}) as dd:
            assert dd._master is not None
            seen += secrets_of(dd._client_keys)
            door = dd._master._sockets._door
            assert door is not None
            for _ in range(2):
                dd.train([[1]], lambda model, items: {"n": 1}, workers=1)
            assert len(door.worker_keys()) == 2  # each train() has its own pair
            seen += door.worker_keys()
    assert len(set(seen)) == len(seen) == 2 * (3 + 2)
