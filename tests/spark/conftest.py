"""One Spark session for all tests here; whatever needs another one runs as a program."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "programs"
ROOT = Path(__file__).resolve().parents[2]


def pytest_collection_modifyitems(items):
    """PySpark 3.5 leaves it to the garbage collector to close the sockets of its results."""
    leaked = "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings(leaked))


@pytest.fixture(scope="session")
def spark():
    """A session with four slots; a task that fails ends its job, as local[4] has it."""
    from pyspark.sql import SparkSession

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        session = (
            SparkSession.builder.master("local[4]")
            .appName("zmqdist tests")
            .config("spark.ui.enabled", "false")
            .config("spark.ui.showConsoleProgress", "false")
            .config("spark.driver.host", "127.0.0.1")
            .getOrCreate()
        )
        session.sparkContext.setLogLevel("OFF")
        yield session
        session.stop()


@pytest.fixture(scope="session")
def sc(spark):
    return spark.sparkContext


class Program:
    """A Python program in a process group of its own, ended with all its children."""

    def __init__(self, path, *arguments, **environment):
        here = {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
        wanted = {**os.environ, **here, **environment}  # None: not set at all
        self.process = subprocess.Popen(
            [sys.executable, str(path), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            cwd=ROOT,
            env={name: value for name, value in wanted.items() if value is not None},
        )

    def output(self, timeout_s):
        """Wait for the end and return what it printed; fail with its stderr."""
        try:
            out, err = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            out, err = self.process.communicate(timeout=10)
            pytest.fail(f"still running after {timeout_s} s:\n{out[-3000:]}\n{err[-6000:]}")
        assert self.process.returncode == 0, f"{out[-3000:]}\n{err[-6000:]}"
        return out

    def answer(self, timeout_s):
        """Wait for the end and return the JSON of the last line."""
        return json.loads(self.output(timeout_s).splitlines()[-1])

    def kill(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def close(self):
        self.kill()
        self.process.communicate(timeout=10)


@pytest.fixture
def start():
    """Start a program: of tests/spark/programs by its name, any other by its path."""
    started = []

    def start_program(name, *arguments, **environment):
        path = PROGRAMS / name if isinstance(name, str) else name
        started.append(Program(path, *arguments, **environment))
        return started[-1]

    yield start_program
    for program in started:
        program.close()


@pytest.fixture
def say(capsys):
    """Write a line into the output of the test run: the figures of a scenario."""

    def write(line):
        with capsys.disabled():
            sys.stdout.write(f"\n  {line}")

    return write


@pytest.fixture
def until():
    """Wait for a condition, with a deadline."""

    def wait_until(condition, what, timeout_s=30.0):
        deadline = time.monotonic() + timeout_s
        while not (value := condition()):
            assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s for {what}"
            threading.Event().wait(0.02)
        return value

    return wait_until
