"""What must not be left behind by Spark programs: processes after a death, keys anywhere."""

import contextlib
import os
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.spark, pytest.mark.slow]


def members(session):
    """Return the live processes of a session, with their command lines."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, *rest = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(rest[2]) == session and state not in "ZX":
                found[int(entry.name)] = (entry / "cmdline").read_text()[:200]
    return found


def test_a_killed_driver_leaves_nothing(start, until, tmp_path, say):
    """SIGKILL to the driver with its master: JVM and Python workers end by themselves."""
    segments = set(os.listdir("/dev/shm"))
    program = start("interrupt.py", tmp_path)

    def busy():
        assert program.process.poll() is None, program.output(1)
        return len(list(tmp_path.glob("pid.*"))) >= 2

    until(busy, "two busy workers", 100)
    session = program.process.pid
    before = members(session)
    assert any("java" in line for line in before.values())
    assert sum("pyspark" in line for line in before.values()) >= 2
    program.process.kill()
    killed = time.monotonic()
    left = {session}
    until(lambda: not set(members(session)) - left, f"all of {before} to end", 60)
    say(f"driver killed: {len(before)} processes, all ended in {time.monotonic() - killed:.1f} s")
    new = set(os.listdir("/dev/shm")) - segments
    assert not [name for name in new if "zmqdist" in name]


def test_keys_show_nowhere_in_spark(start, tmp_path):
    """Not on its pages, in its REST interface, event log, configuration, log or processes."""
    answer = start("pages.py", tmp_path).answer(200)
    assert answer["applied"] == 4
    assert answer["keys"] == 6  # the master's pair, the driver's, the workers'
    assert len(answer["pages"]) >= 12
    assert any("environment" in page for page in answer["pages"])
    assert min(answer["sizes"][page] for page in answer["pages"] if "/api/" not in page) > 500
    assert answer["shown"] == []
    assert answer["titles"]  # what a page shows would have been seen
