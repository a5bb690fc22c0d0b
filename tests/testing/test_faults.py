"""Faults under real trainings: what was asked for happens, and each step counts once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from zmqdist import ZmqDist
from zmqdist.errors import ConfigError
from zmqdist.master import Master
from zmqdist.net.transport import MasterSockets
from zmqdist.staleness import Asynchronous
from zmqdist.testing import faults

PARTITIONS = [[(p, step) for step in range(25)] for p in range(4)]


def one(model: Any, items: Any) -> Any:
    (item,) = items
    return {"seen": item, "n": 1}


def each(model: Any, items: Any) -> Any:
    for item in items:
        yield {"seen": item, "n": 1}


class Count:
    """A descent that notes what it applied."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __call__(self, model: Any, update: Any) -> None:
        model["n"] += update["n"]
        self.seen.append(tuple(update["seen"]))

    def check_each_once(self) -> None:
        assert sorted(self.seen) == [item for part in PARTITIONS for item in part]


def trained(gradient: Any, **options: Any) -> tuple[Count, Any]:
    count = Count()
    with ZmqDist({"n": 0}, staleness=Asynchronous(), lease_s=2, **options) as dd:
        result = dd.train(PARTITIONS, gradient, count, batch_size=1, workers=2, timeout_s=100)
        assert dd.model["n"] == result.applied == len(count.seen)
    return count, result


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    "rates",
    [
        {"drop": 0.1},
        {"duplicate": 0.3},
        {"reorder": 0.2},
        {"delay": 0.3, "delay_s": 0.2},
        {"drop": 0.05, "duplicate": 0.1, "reorder": 0.1, "delay": 0.1},
    ],
    ids=lambda rates: "+".join(rates),
)
def test_messages(rates: dict[str, float]) -> None:
    with faults(seed=5, **rates) as injected:  # type: ignore[arg-type]
        count, _ = trained(one)
    count.check_each_once()
    happened = injected.counts
    names = {"drop": "dropped", "duplicate": "duplicated", "reorder": "reordered"}
    expected = {names.get(rate, "delayed") for rate in rates if rate != "delay_s"}
    assert {name for name in happened if happened[name]} == expected | {"seen"}
    assert happened["seen"] > 200


@pytest.mark.usefixtures("threads")
def test_only_some_kinds_are_touched() -> None:
    with faults(duplicate=1.0, only={"push"}) as injected:
        count, result = trained(one)
    count.check_each_once()
    assert injected.counts == {"seen": 100, "duplicated": 100}
    assert result.duplicates == 100


def test_truncated_messages_cost_an_attempt_and_nothing_else() -> None:
    with faults(seed=1, truncate=0.03, only={"push", "ack"}) as injected:
        count, result = trained(one)
    count.check_each_once()
    assert 0 < injected.counts["truncated"] < 15
    assert result.sessions > 4


@pytest.mark.parametrize("point", ["computing", "computed", "sent"])
def test_killed_workers(point: str) -> None:
    with faults(seed=2, kill={point: 0.1}, max_kills=3) as injected:
        count, result = trained(injected.gradient(one), max_in_flight=1)
    count.check_each_once()
    assert injected.counts["killed"] == 3
    assert result.sessions >= 4 + 3


def test_a_zombie_that_wakes_counts_nothing_twice() -> None:
    with faults(seed=2, pause={"computed": 0.03}, max_pauses=2, pause_s=4.0) as injected:
        count, result = trained(injected.gradient(one))
    count.check_each_once()
    assert injected.counts["paused"] == 2
    assert result.evicted >= 1


MASTER = """
import sys
from tests.testing.test_faults import each
from zmqdist import ZmqDist
from zmqdist.testing import faults
with faults(kill={sys.argv[1]: 1.0}, max_kills=1) as injected:
    with ZmqDist({"n": 0}) as dd:
        dd.train([[(0, 0)]], each, injected.descent(lambda model, update: print("changed")))
"""


@pytest.mark.parametrize(("point", "changed"), [("descending", False), ("descended", True)])
def test_the_master_dies_in_descent(point: str, changed: bool, tmp_path: Path) -> None:
    order = [sys.executable, "-u", "-c", MASTER, point]
    root = Path(__file__).parents[2]
    # The worker holds the pipes, too: this returns once it has ended after its parent.
    ended = subprocess.run(
        order,
        cwd=root,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=25,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert (ended.stdout == "changed\n") is changed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop": 1.5}, "drop is 1.5; expected a number from 0 to 1"),
        ({"delay": float("nan")}, "delay is nan; expected a number"),
        ({"kill": {"lunch": 0.1}}, "unknown point 'lunch'; expected one of computing, computed"),
        ({"pause": {"sent": 2}}, "rate at sent is 2; expected a number from 0 to 1"),
        ({"only": {"status"}}, r"only names \['status'\]; expected kinds of .*'push'"),
    ],
    ids=str,
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message), faults(**options):
        pass
    assert Master.sockets_type is MasterSockets


def test_not_twice_at_once_and_gone_afterwards() -> None:
    with faults(), pytest.raises(ConfigError, match="at work in this process already"), faults():
        pass
    assert Master.sockets_type is MasterSockets
