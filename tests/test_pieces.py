"""A large model comes in pieces while others train: each step is on one version all the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.support import Peer, epoch, eventually, serving, work
from tests.test_in_place import OwnModels
from zmqdist import RowSparse, ZmqDist, connection, publisher
from zmqdist.core.pieces import Pieces
from zmqdist.staleness import Asynchronous

SHAPE = (400, 8)
ROWS = 5
PIECE_BYTES = 400 * 8 * 8 // 10


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "PIECE_BYTES", PIECE_BYTES)


@pytest.fixture
def came_in(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return, of each model that came in pieces, whether these were of several versions."""
    came: list[bool] = []
    take = Pieces.take

    def noting(self: Pieces, message: Any) -> bool:
        taken = take(self, message)
        if taken and not message.end:
            came.append(self.mixed)
        return taken

    monkeypatch.setattr(Pieces, "take", noting)
    return came


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each partition begin with nothing, as in a process of its own."""
    monkeypatch.setattr(connection._replicas, "take", lambda run: None)
    monkeypatch.setattr(connection._replicas, "put", lambda run, replica: replica.close())


def model() -> dict[str, Any]:
    return {"rows": np.zeros(SHAPE), "count": np.zeros(1), "n": 0}


def count_up(model: dict[str, Any], items: Any) -> Iterator[dict[str, Any]]:
    for item in items:
        (count,) = model["count"]
        assert model["rows"].sum() == count * ROWS * SHAPE[1], "rows of several versions"
        assert model["n"] == count
        chosen = np.sort(np.random.default_rng(item).choice(SHAPE[0], ROWS, replace=False))
        rows = RowSparse(chosen, np.ones((ROWS, SHAPE[1])), SHAPE)
        yield {"rows": rows, "count": np.ones(1), "n": 1}


@pytest.mark.parametrize("replica", ["private", "shared"])
def test_who_begins_late_computes_on_one_version(
    monkeypatch: pytest.MonkeyPatch, forgetful: None, came_in: list[bool], replica: str
) -> None:
    monkeypatch.setattr("zmqdist.api.engine_for", OwnModels)
    data = [range(10 * part, 10 * part + 6) for part in range(30)]
    options = {"staleness": Asynchronous(), "security": "none", "progress": False}
    with ZmqDist(model(), replica=replica, publish_every=1, **options) as dd:
        result = dd.train(data, count_up, workers=3)
        assert result.applied == 180
        assert dd.model["rows"].sum() == 180 * ROWS * SHAPE[1]
        assert dd.model["count"][0] == dd.model["n"] == 180
    assert len(came_in) >= (30 if replica == "private" else 1)
    assert not came_in[0], "before the first update all pieces are of one version"
    assert replica == "shared" or any(came_in), "later ones are not"


def test_pieces_are_cut_from_what_is_published_and_encoded_once() -> None:
    with serving(model()) as master, Peer(master.address) as peer:
        first = peer.ask("pull", "version", session=0, have=-1, want=0, start=0)
        assert (first["version"], first["start"], first["end"]) == (0, 0, 40)
        (encoded,) = master._publisher._answered.values()
        again = peer.ask("pull", "version", session=0, have=-1, want=0, start=0)
        assert again == first
        assert [*master._publisher._answered.values()] == [encoded]
        starts = []
        while (end := again["end"]) != 0:
            again = peer.ask("pull", "version", session=0, have=-1, want=2**62, start=end)
            starts.append(again["start"])
        assert starts == [*range(40, 440, 40)]  # the last one without rows
        assert "count" in str(again["tree"])
        beyond = peer.ask("pull", "version", session=0, have=-1, want=0, start=10**6)
        assert beyond["end"] == 0
        assert peer.ask("pull", "version", session=0, have=-1, want=0)["start"] == 0
        assert master.state.totals.publications == 1


def test_a_model_that_changes_as_a_whole_comes_as_a_whole() -> None:
    """Or a worker would get it twice: in pieces of several versions, and then what changed."""
    with serving(model(), publish_every=1) as master:
        with epoch(master) as assignment, Peer(master.address) as peer:
            ask = {"session": 0, "have": -1, "want": 0, "start": 0}
            few = {"rows": RowSparse([3], np.ones((1, 8)), SHAPE)}
            all_rows = {"rows": np.ones(SHAPE)}
            updates = iter([few, all_rows, few])
            ends = []

            def gradient(_: Any, items: Any) -> Iterator[Any]:
                for count, update in enumerate(updates, 1):
                    yield update
                    eventually(lambda n=count: master.state.published == n, "the next version")
                    ends.append(peer.ask("pull", "version", **ask)["end"])

            work(assignment, model(), gradient, [0])
            assert ends == [40, 0, 40]
