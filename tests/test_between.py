"""Between two ``train()`` the model is the program's: what it changes there is trained on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.test_in_place import OwnModels
from zmqdist import RowSparse, ZmqDist
from zmqdist.models.arrays import PathParameters
from zmqdist.models.tiers import Tiers
from zmqdist.staleness import Asynchronous, DelayCompensated

ROWS = 50
SEEN: list[Any] = []


class Table:
    def __init__(self) -> None:
        self.rows = np.zeros((ROWS, 3), np.float32)
        self.bias = np.zeros(4)
        self.rate = 0.5


def see(model: Table) -> None:
    SEEN.append((model.rows.copy(), model.bias.copy(), model.rate))


def one_row(model: Table, items: Any) -> dict[str, Any]:
    see(model)
    return {"rows": RowSparse([3], np.ones((1, 3), np.float32), (ROWS, 3))}


def dense(model: Table, items: Any) -> dict[str, Any]:
    see(model)
    return {"rows": np.ones((ROWS, 3), np.float32)}


def in_place(model: Table, items: Any) -> Iterator[None]:
    for item in items:
        see(model)
        model.rows[item] += 1
        yield


def added(model: Table, update: Any) -> None:
    model.rows += update["rows"]


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    SEEN.clear()
    monkeypatch.setattr("zmqdist.api.engine_for", OwnModels)
    monkeypatch.setattr(PathParameters, "ranked", lambda self: {"rows": np.arange(ROWS)})


def change_row(model: Table) -> None:
    model.rows[40] = 100


def change_whole(model: Table) -> None:
    model.bias[2] = 100


def change_scalar(model: Table) -> None:
    model.rate = 100


CHANGES = [change_row, change_whole, change_scalar]


def seen(change: Any, before: float) -> list[float]:
    where = {change_row: lambda s: s[0][40, 0], change_whole: lambda s: s[1][2]}
    return [float(where.get(change, lambda s: s[2])(s)) - before for s in SEEN]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("replica", ["private", "shared"])
@pytest.mark.parametrize(
    ("gradient", "descent", "options"),
    [
        (one_row, None, {}),
        (one_row, added, {}),
        (dense, None, {}),
        (dense, added, {}),
        (in_place, None, {"tiers": Tiers(hot_rows=2)}),
    ],
)
def test_workers_train_on_what_the_program_made_of_it(
    gradient: Any, descent: Any, options: dict[str, Any], change: Any, replica: str
) -> None:
    with ZmqDist(Table(), staleness=Asynchronous(), replica=replica) as dd:
        dd.train([[1], [2]], gradient, descent, workers=1, **options)
        SEEN.clear()
        version = dd.version
        change(dd.model)
        assert dd.train([[1], [2], [1]], gradient, descent, workers=1, **options).applied >= 3
        values = seen(change, 0)
        assert min(values) >= 100
        assert max(values) <= 105
        assert dd.version > version


@pytest.mark.parametrize("change", [None, *CHANGES])
def test_only_what_changed_makes_workers_start_over(change: Any) -> None:
    with ZmqDist(Table(), staleness=DelayCompensated(lr=1.0)) as dd:
        dd.train([[1]], one_row, workers=1)
        assert dd._master is not None
        lineage = dd._master.state.lineage
        if change is not None:
            change(dd.model)
        dd.train([[1]], one_row, workers=1)
        assert lineage.starts == ([0] if change is None else [0, 1])


def test_a_nan_that_stays_is_no_change() -> None:
    table = Table()
    table.rate = float("nan")
    table.bias[1] = float("nan")
    with ZmqDist(table, staleness=Asynchronous()) as dd:
        dd.train([[1]], one_row, workers=1)
        dd.train([[1]], one_row, workers=1)
        assert dd._master is not None
        assert dd._master.state.lineage.starts == [0]


def test_also_when_the_last_updates_were_not_due_to_be_published() -> None:
    with ZmqDist(Table(), staleness=Asynchronous(), publish_every=1000) as dd:
        dd.train([[1]], one_row, workers=1)
        assert dd._master is not None
        SEEN.clear()
        change_row(dd.model)
        dd.train([[1]], one_row, workers=1)
        assert seen(change_row, 0) == [100]
        assert dd._master.state.lineage.starts == [0, 1]


def test_a_model_that_lost_an_array_is_an_error_as_before() -> None:
    with ZmqDist(Table(), staleness=Asynchronous()) as dd:
        dd.train([[1]], one_row, workers=1)
        dd.model.rows = np.zeros((2, 3), np.float32)
        with pytest.raises(Exception, match="rows"):
            dd.train([[1]], one_row, workers=1)


def test_a_master_that_ended_keeps_nobody_waiting() -> None:
    with ZmqDist(Table(), staleness=Asynchronous()) as dd:
        dd.train([[1]], one_row, workers=1)
        assert dd._master is not None
        dd._master.stop()
        asking = threading.Thread(target=dd._master.use, args=(None,))
        asking.start()
        asking.join(10)
        assert not asking.is_alive()


def test_a_checkpoint_holds_the_change_and_the_lives(tmp_path: Path) -> None:
    with ZmqDist(Table(), staleness=Asynchronous(), checkpoint=tmp_path) as dd:
        dd.train([[1]], one_row, workers=1)
        change_row(dd.model)
        dd.train([[1]], one_row, workers=1)
    with ZmqDist(Table(), staleness=Asynchronous(), checkpoint=tmp_path, resume=True) as dd:
        assert dd._master is not None
        assert dd.model.rows[40, 0] == 100
        assert dd._master.state.lineage.starts == [0, 1, 2]
