"""Points are hit by number, over all processes, and never more often than asked for."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import eventually
from zmqdist.testing.points import Points, Strike, StruckDescent, StruckGradient


class Struck(Points):
    """Notes what it would hit."""

    hits: list[str] = []  # noqa: RUF012 - of one test each

    def strike(self, point: str, pid: int = 0) -> None:
        self.hits.append(point)


def passages(folder: Path, seed: int, rate: float, at_most: int = 1000) -> list[int]:
    strike = Strike("killed", {"computed": rate}, at_most)
    points = Points(seed, str(folder), (strike,))
    folder.mkdir()
    return [n for n in range(400) if points._hits(strike, "computed")]


def test_hits_follow_the_seed_and_the_rate(tmp_path: Path) -> None:
    hits = passages(tmp_path / "a", 1, 0.1)
    assert 15 < len(hits) < 70
    assert passages(tmp_path / "b", 1, 0.1) == hits
    assert passages(tmp_path / "c", 2, 0.1) != hits
    assert passages(tmp_path / "d", 1, 0.1, at_most=3) == hits[:3]
    assert passages(tmp_path / "e", 1, 1.0) == list(range(400))
    assert passages(tmp_path / "f", 1, 0.0) == []


def test_counts_over_processes(tmp_path: Path) -> None:
    """Forty processes pass the point at once; exactly five of them die there."""
    strike = Strike("killed", {"computed": 0.5}, 5)
    points = Points(3, str(tmp_path), (strike,))
    code = (
        "import pickle, sys\n"
        "points = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "points.strike('computing'); points.strike('computed')\n"
    )
    order = [sys.executable, "-c", code, pickle.dumps(points).hex()]
    running = [subprocess.Popen(order) for _ in range(20)]
    codes = [process.wait(60) for process in running]
    assert sorted(set(codes)) == [-signal.SIGKILL, 0]
    assert codes.count(-signal.SIGKILL) == 5 == points.count("killed")


def test_suspends_and_wakes_another_process(tmp_path: Path) -> None:
    points = Points(0, str(tmp_path), (Strike("paused", {"sent": 1.0}, 1, pause_s=0.2),))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as sleeper:
        points.strike("sent", sleeper.pid)
        eventually(lambda: state_of(sleeper.pid) == "T", "it is stopped")
        points.strike("sent", sleeper.pid)  # over its budget
        eventually(lambda: points.wake_paused() or state_of(sleeper.pid) != "T", "it is awake")
        assert points.count("paused") == 1
        points.wake_paused(everybody=True)
        sleeper.communicate(b"\n")
    points.strike("sent", sleeper.pid)  # it is gone: no error


def test_suspends_itself(tmp_path: Path) -> None:
    points = Points(0, str(tmp_path), (Strike("paused", {"computing": 1.0}, 1, pause_s=0.3),))
    code = (
        "import pickle, sys, time\n"
        "points = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "before = time.monotonic(); points.strike('computing')\n"
        "assert time.monotonic() - before >= 0.3\n"
    )
    assert subprocess.run([sys.executable, "-c", code, pickle.dumps(points).hex()]).returncode == 0


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_points_around_the_users_functions() -> None:
    Struck.hits = order = []
    points = Struck(0, "", ())
    one = StruckGradient(points, lambda model, data: order.append("gradient") or 1)  # type: ignore[func-returns-value]
    assert one(None, None) == 1
    assert order == ["computing", "gradient", "computed"]

    def each(model: Any, data: Any) -> Iterator[int]:
        for item in data:
            order.append(f"gradient {item}")
            yield item

    order.clear()
    assert list(StruckGradient(points, each)(None, [1, 2])) == [1, 2]
    assert order == [
        *("computing", "gradient 1", "computed"),
        *("computing", "gradient 2", "computed", "computing"),
    ]
    order.clear()
    StruckDescent(points, lambda model, update: order.append("descent"))(None, None)
    assert order == ["descending", "descent", "descended"]


def test_a_gradient_keeps_its_attributes_and_travels() -> None:
    wrapped = StruckGradient(Points(0, "", ()), SimpleNamespace(tiers="some"))  # type: ignore[arg-type]
    assert pickle.loads(pickle.dumps(wrapped)).tiers == "some"  # noqa: S301 - our own
    with pytest.raises(AttributeError):
        wrapped.nothing  # noqa: B018
