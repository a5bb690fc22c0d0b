"""`zmqdist-master` as its users run it: keys, messages, training, signals."""

from __future__ import annotations

import functools
import os
import re
import resource
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import Running, eventually, free_port, serving
from zmqdist import ZmqDist
from zmqdist.cli import _save, main
from zmqdist.driver import Driver
from zmqdist.errors import MasterLost, MasterUnreachable
from zmqdist.master import Master
from zmqdist.options import MasterOptions

COMMAND = [sys.executable, "-m", "zmqdist.cli"]
JOB = """
import numpy as np

def make_model():
    return {"w": np.zeros(3), "n": 0}

def twice(model, update):
    model["w"] += 2 * update["w"]
    model["n"] += 1

number = 5
"""


def count(model: Any, items: Any) -> Any:
    for _ in items:
        yield {"w": np.ones(3), "n": 1}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be where the modules of the user are, with a home of our own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ZMQDIST_KEYS", raising=False)
    (tmp_path / "job.py").write_text(JOB)
    return tmp_path


class Served:
    """A running `zmqdist-master` and what it writes."""

    def __init__(self, process: subprocess.Popen[str], log: Path, address: str) -> None:
        self.process, self.log, self.address = process, log, address

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=15)


@contextmanager
def master(folder: Path, *options: str) -> Iterator[Served]:
    log, port = folder / "log", free_port()
    ports = ("--port", str(port), "--publish-port", "0")
    command = [*COMMAND, "--model", "job:make_model", *ports, *options]
    with log.open("w") as stream, subprocess.Popen(command, stderr=stream, text=True) as process:
        try:
            eventually(
                lambda: process.poll() is not None or "listening on" in log.read_text(),
                lambda: f"listening: {log.read_text()}",
            )
            yield Served(process, log, f"tcp://127.0.0.1:{port}")
        finally:
            process.kill()


def failing(*arguments: str) -> str:
    """Run a command that must end with status 2; return what it says."""
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    return done.stderr


# ---- keys and messages --------------------------------------------------------------------------


def test_keygen(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "new" / "keys"
    assert main(["keygen", str(file)]) == 0
    out = capsys.readouterr().out
    for path in (file, Path(f"{file}.client")):
        assert str(path) in out
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "server_secret" in file.read_text()
    assert "server_secret" not in Path(f"{file}.client").read_text()
    for key in re.findall(r'"(.{40})"', file.read_text()):
        assert key not in out
    before = file.read_text()
    assert main(["keygen", str(file)]) == 2
    assert f"key file {file} exists already; name another" in capsys.readouterr().err
    assert file.read_text() == before
    assert main(["keygen"]) == 0
    assert (folder / ".zmqdist" / "keys").exists()


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = capsys.readouterr().out
    for word in ("pkg.mod:factory", "keygen", "ZmqDist(model, master=", "default: 5000", "SIGTERM"):
        assert word in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: --model"),
        (["--model", "job"], "--model is 'job'; expected pkg.mod:function"),
        (["--model", "nothing:f"], "cannot import 'nothing': No module named.*set PYTHONPATH"),
        (["--model", "job:missing"], "--model job:missing: .*no attribute 'missing'"),
        (["--model", "job:number"], "--model job:number is a int; expected a function"),
        (
            ["--model", "job:make_model", "--descent", "nothing:f"],
            "--descent nothing:f: cannot imp",
        ),
        (["--model", "job:make_model", "--port", "x"], "argument --port: invalid int value: 'x'"),
        (["--model", "job:make_model", "--port", "70000"], "port is 70000; expected an integer"),
        (["--model", "job:make_model", "--lease", "-1"], "lease_s is -1.0; expected seconds > 0"),
        (["--model", "job:make_model", "--staleness", "some"], "unknown staleness policy 'some'"),
        (["--model", "job:make_model", "--staleness", "bounded:x"], "policy 'bounded:x'"),
        (["--model", "job:make_model", "--merge", "some"], "unknown merge policy 'some'"),
        (["--model", "job:make_model", "--merge", "mean"], r"merge=Mean\(\) merges several"),
        (["--model", "job:make_model", "--security", "tls"], "invalid choice: 'tls'"),
        (
            ["--model", "job:make_model", "--keys", "none"],
            "cannot read key file none: No such file",
        ),
        (["--model", "job:make_model", "--save", "no/where"], "--save no/where: its folder is not"),
    ],
    ids=lambda value: " ".join(value)[-30:] if isinstance(value, list) else "",
)
def test_bad_flags(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("zmqdist.master.Master.run", lambda self: None)
    try:
        status = main(arguments)
    except SystemExit as end:
        status = int(end.code or 0)
    assert status == 2
    assert re.search(message, capsys.readouterr().err.replace("\n", " "))


def test_takes_as_many_open_files_as_it_may(folder: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        with master(folder, "--security", "none") as served:
            assert resource.prlimit(served.process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_status_of_the_process() -> None:
    assert "--model nothing:f: cannot import 'nothing'" in failing("--model", "nothing:f")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = failing("--model", "job:make_model", "--port", port, "--security", "none")
        assert f"zmqdist-master: port {port} on 127.0.0.1 is in use by another process" in said


# ---- training -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_trains_and_saves(folder: Path, number: int) -> None:
    keys, saved = folder / "keys", folder / "model.npz"
    main(["keygen", str(keys)])
    options = ("--keys", str(keys), "--descent", "job:twice", "--save", str(saved))
    with master(folder, *options) as served:
        client = f"{keys}.client" if number == signal.SIGTERM else str(keys)
        model = {"w": np.zeros(3), "n": 0}
        with ZmqDist(model, master=served.address, keys=client) as dd:
            result = dd.train([[1, 2, 3], [4, 5]], count, workers=1)
            assert result.applied == result.version == dd.version == 5
            assert dd.model is model
            assert (model["w"].tolist(), model["n"]) == ([10.0] * 3, 5)
        model["w"][:] = -1
        with ZmqDist(model, master=served.address, keys=client) as dd:  # another driver goes on
            assert dd.train([[1]], count, workers=1).version == 6
            assert model["w"].tolist() == [12.0] * 3
        assert served.end(number) == 0
        with np.load(saved) as arrays:
            assert arrays["w"].tolist() == [12.0] * 3
            assert arrays["n"] == 6
        text = served.log.read_text()
        assert "version 6, 6 examples" in text
        for key in re.findall(r'"(.{40})"', keys.read_text()):
            assert key not in text
        assert sorted(file.name for file in folder.glob("*model*")) == ["model.npz"]


def test_saves_parameters_of_any_name(folder: Path) -> None:
    model = {"file": np.ones(3), "args": 2, "allow_pickle": 0.5, "weights": np.zeros((2, 2), "f4")}
    with serving(model) as master:
        _save(master, folder / "model.npz")
    with np.load(folder / "model.npz") as arrays:
        assert sorted(arrays) == sorted(model)
        assert all((arrays[name] == value).all() for name, value in model.items())
        assert arrays["weights"].dtype == "f4"


def test_what_cannot_be_saved_leaves_the_old_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    (folder / "model.npz").write_text("old")
    monkeypatch.setattr("numpy.lib.format.write_array", full)
    with serving({"w": np.ones(3)}) as master, pytest.raises(OSError, match="No space"):
        _save(master, folder / "model.npz")
    assert [file.name for file in folder.glob("*model*")] == ["model.npz"]
    assert (folder / "model.npz").read_text() == "old"


def test_merges_as_it_is_told(folder: Path) -> None:
    options = ("--security", "none", "--staleness", "softsync:1", "--merge", "sum")
    model = {"w": np.zeros(3), "n": 0}
    with master(folder, *options) as served:
        assert "SoftSync(n=1, timeout_s=5.0), merge Sum()" in served.log.read_text()
        with ZmqDist(model, master=served.address, security="none") as dd:
            result = dd.train([[1] * 50] * 2, count, workers=2)
    assert result.applied == 100
    assert model["w"].tolist() == [100.0] * 3  # each pair would make 1 by the mean


def test_makes_its_keys_where_drivers_look(folder: Path) -> None:
    with master(folder) as served:
        with ZmqDist({"w": np.zeros(3), "n": 0}, master=served.address) as dd:
            assert dd.train([[1, 2]], count, workers=1).applied == 2
        assert served.end(signal.SIGTERM) == 0


def test_another_signal_at_any_moment() -> None:
    """It comes between any two lines, those of the first one's handler included."""
    master = Master({"w": np.zeros(3)}, MasterOptions())

    def again(frame: Any, event: str, argument: Any) -> Any:
        master.stop()
        return again

    before = sys.gettrace()
    sys.settrace(again)
    try:
        master.stop()
    finally:
        sys.settrace(before)
    master.run()  # returns at once


@pytest.mark.usefixtures("threads")
def test_master_that_is_killed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forever(model: Any, items: Any) -> Any:
        while True:
            yield {"n": 1}

    seen: list[int] = []
    monkeypatch.setattr("zmqdist.training.REPORT_S", 0.0)
    connect = functools.partial(Driver, connect_s=1.0)
    monkeypatch.setattr("zmqdist.training.Driver", connect)
    with master(folder, "--security", "none", "--lease", "1") as served:
        model = {"w": np.zeros(3), "n": 0}
        with ZmqDist(model, master=served.address, security="none") as dd:
            run = Running(
                lambda: dd.train([[1]], forever, callbacks=[lambda s: seen.append(s["applied"])])
            )
            eventually(lambda: seen and seen[-1] > 3, "updates")
            os.kill(served.process.pid, signal.SIGKILL)
            with pytest.raises((MasterLost, MasterUnreachable), match="has not answered for 1 s"):
                run.join()
