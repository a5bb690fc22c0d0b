"""The live line is honest about silence."""

from __future__ import annotations

import re
import time
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import Running, eventually, serving
from zmqdist import ZmqDist
from zmqdist.driver import Driver
from zmqdist.result import TrainResult
from zmqdist.telemetry import progress
from zmqdist.telemetry.progress import SILENCE_S, Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(s=100.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now.s))
    return now


class Bar:
    """What tqdm would draw."""

    n = 0
    text = ""

    def set_postfix_str(self, text: str) -> None:
        self.text = text

    def close(self) -> None: ...


def line(clock: Any) -> tuple[Progress, Bar]:
    made, bar = Progress(False, 3), Bar()
    made._bar = bar
    return made, bar


def test_says_for_how_long_no_update_came(clock: SimpleNamespace) -> None:
    made, bar = line(clock)
    report: Any = SimpleNamespace(version=7, workers=2)
    made.update(0, report, TrainResult(applied=7))
    clock.s += SILENCE_S - 1
    made.update(0, report, TrainResult(applied=7))
    assert bar.text.endswith("2 workers")
    clock.s += 3
    made.update(0, report, TrainResult(applied=7))
    assert bar.text.endswith(f"2 workers, no update for {SILENCE_S + 2:.0f} s")
    made.update(0, report, TrainResult(applied=7, skipped=1))
    assert bar.text.endswith("2 workers")


def test_says_for_how_long_the_master_has_not_answered(clock: SimpleNamespace) -> None:
    made, bar = line(clock)
    made.silence(SILENCE_S - 1)
    assert bar.text == ""
    made.silence(7.4)
    assert bar.text == "no answer from the master for 7 s"
    made.update(0, SimpleNamespace(version=7, workers=2), TrainResult(applied=7))  # type: ignore[arg-type]
    made.silence(12)
    assert bar.text.endswith("2 workers, no answer from the master for 12 s")


def test_one_who_waits_is_told_of_it() -> None:
    """A master whose descent takes long is silent; the driver hears how long, and may leave."""
    told: list[float] = []

    class Enough(Exception):
        pass

    def tell(seconds: float) -> None:
        told.append(seconds)
        if len(told) == 3:
            raise Enough

    with serving({"n": 0}) as master:
        driver = Driver(master.address, None, on_silence=tell)
        begun = driver.begin(1, "")
        master.stop()
        with pytest.raises(Enough):
            driver.status(begun.epoch)
        driver.close()
    assert told == sorted(told)
    assert 0 < told[0] < told[-1]


@pytest.mark.usefixtures("threads")
def test_the_line_of_a_training_that_is_held_up(capsys: pytest.CaptureFixture[str]) -> None:
    def slow(model: Any, update: Any) -> None:
        until = time.monotonic() + 7
        eventually(lambda: time.monotonic() > until, "seven seconds")

    with ZmqDist({"n": 0}, progress=True) as dd:
        run = Running(lambda: dd.train([[1]], lambda model, items: {"n": 1}, slow))
        run.join(60)
    assert re.search(r"no answer from the master for [567] s", capsys.readouterr().err)
