"""`zmqdist-tune calibrate` on records of real runs."""

from __future__ import annotations

import itertools
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from zmqdist import ZmqDist
from zmqdist.staleness import Asynchronous
from zmqdist.tuning.catalogue import bowl
from zmqdist.tuning.cli import main
from zmqdist.tuning.cluster import Cluster

STEP_S = 0.01


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def record(path: str, *, workers: int, partitions: int, steps: int) -> None:
    """Record a run whose steps take a constant time."""
    problem = bowl(dimensions=3)

    def slow(model: Any, batch: Any) -> Any:
        threading.Event().wait(STEP_S)
        return problem.gradient(model, batch)

    data = [list(itertools.islice(part, steps)) for part in problem.data(partitions, 0)]
    options: dict[str, Any] = {"staleness": Asynchronous(), "max_in_flight": 1, "progress": False}
    with ZmqDist(problem.model(), record=path, **options) as dd:
        dd.train(data, slow, lambda model, update: None, batch_size=1, workers=workers)


def test_calibrate_and_validate(capsys: pytest.CaptureFixture[str]) -> None:
    record("run.csv", workers=1, partitions=1, steps=30)
    record("run.csv", workers=2, partitions=4, steps=50)
    arguments = ["calibrate", "run.csv", "-o", "two.json", "--max-in-flight", "1"]
    assert main([*arguments, "--validate", "run.csv"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("two.json: 2 workers\n"), "sessions were counted, or an older run"
    cluster = Cluster.load("two.json")
    assert cluster.workers == 2
    assert cluster.compute_of(0).mean >= STEP_S
    assert "run.csv: 2 workers, 200 updates, simulation less run" in said
    shown = dict(re.findall(r"^  (.*): ([+-][\d.]+)%$", said, re.M))
    assert shown["part applied, difference"] == "+0.0"
    assert abs(float(shown["mean staleness, relative error"])) < 50
    assert len(shown) == 4
    assert main(["simulate", "two.json", "--updates", "30"]) == 0
    assert main([*arguments, "--replay"]) == 0
    assert "computing times" not in capsys.readouterr().out
    assert [one.as_dict()["in_order"] for one in Cluster.load("two.json").compute] == [True] * 2
    assert main(["simulate", "two.json", "--updates", "30", "--staleness", "bounded:1"]) == 0


def test_what_is_no_record(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record("short.csv", workers=1, partitions=1, steps=20)
    (folder / "empty.csv").write_text("")
    (folder / "other.csv").write_text("a,b\n1,2\n")
    for path, message in {
        "none.csv": "cannot read the record none.csv: No such file",
        "other.csv": "'other.csv' is no record of this version of zmqdist",
        "empty.csv": "the record empty.csv has no updates",
        "short.csv": "the record has 20 updates; at least 50 are needed",
    }.items():
        assert main(["calibrate", path]) == 2
        assert message in capsys.readouterr().err
        assert not (folder / "cluster.json").exists()
