"""Checkpoints of trainings: what was interrupted goes on, and is exact at the end."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import eventually, free_port
from zmqdist import ZmqDist
from zmqdist.checkpoint.store import Store
from zmqdist.errors import CheckpointError, ConfigError, GradientError, ModelMismatch
from zmqdist.master import Master
from zmqdist.merge import RowTrustRegion, Sum
from zmqdist.optim import Adam
from zmqdist.options import MasterOptions
from zmqdist.staleness import Asynchronous, Ringmaster, SoftSync

pytestmark = pytest.mark.usefixtures("threads")

PARTITIONS, STEPS = 3, 8
DATA = [[(p, s) for s in range(STEPS)] for p in range(PARTITIONS)]


def model() -> dict[str, Any]:
    return {"count": np.zeros((PARTITIONS, STEPS)), "n": 0}


def named(partition: int, step: int) -> dict[str, Any]:
    one = np.zeros((PARTITIONS, STEPS))
    one[partition, step] = 1
    return {"count": one, "n": 1}


class Crash(Exception):
    """The program ends here."""


class Fails:
    """Raises when it meets an item, once `armed`."""

    def __init__(self, at: tuple[int, int] | None) -> None:
        self.at = at

    def __call__(self, item: tuple[int, int]) -> None:
        if item == self.at:
            raise Crash


def per_batch(fails: Fails) -> Callable[..., Any]:
    def gradient(model: Any, batch: Any) -> Any:
        fails(batch[0])
        return named(*batch[0])

    return gradient


def yielding(fails: Fails) -> Callable[..., Any]:
    def gradient(model: Any, items: Any) -> Iterator[Any]:
        for item in items:
            fails(item)
            yield named(*item)

    return gradient


KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "batch_size": (per_batch, {"batch_size": 1}),
    "generator": (yielding, {}),
}


def slope(fails: Fails) -> Callable[..., Any]:
    def gradient(model: Any, batch: Any) -> Any:
        fails(batch[0])
        return {"count": np.full((PARTITIONS, STEPS), 0.1 + batch[0][1]) + model["count"]}

    return gradient


@contextlib.contextmanager
def interrupted() -> Iterator[None]:
    """Expect that the program does not come to its end."""
    try:
        yield
    except (Crash, GradientError):
        return
    raise AssertionError("it came to its end")


def opened(folder: Path, mine: Any = None, **options: Any) -> ZmqDist:
    options = {"security": "none", "staleness": Asynchronous(), **options}
    return ZmqDist(model() if mine is None else mine, checkpoint=folder, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_that_failed_goes_on_from_the_step(kind: str, tmp_path: Path) -> None:
    make, options = KINDS[kind]
    with interrupted(), opened(tmp_path) as dd:
        dd.train(DATA, make(Fails(None)), **options)
        dd.train(DATA, make(Fails((1, 5))), epochs=2, **options)
    assert dd.model["count"].sum() < 3 * PARTITIONS * STEPS
    before = dd.version
    with opened(tmp_path, resume=True) as dd:
        assert dd.version == before  # a clean end loses nothing
        first = dd.train(DATA, make(Fails(None)), **options)
        assert dd.version == before  # it had returned: nothing is run again
        result = dd.train(DATA, make(Fails(None)), epochs=2, **options)
        np.testing.assert_array_equal(dd.model["count"], 3)
    assert result.version == dd.version
    steps = PARTITIONS * STEPS
    assert (result.applied, result.version) == (2 * steps, 3 * steps)
    assert first.version == before


def test_a_program_that_came_to_its_end_is_followed_by_another(tmp_path: Path) -> None:
    with opened(tmp_path) as dd:
        dd.train(DATA, yielding(Fails(None)))
    with opened(tmp_path, resume=True) as dd:
        assert dd.model["n"] == PARTITIONS * STEPS
        result = dd.train(DATA, yielding(Fails(None)))
        np.testing.assert_array_equal(dd.model["count"], 2)
    assert result.applied == PARTITIONS * STEPS


class Abandoned:
    """A master whose process is gone: the thread ends, nothing is written any more."""

    def __init__(self, dd: ZmqDist) -> None:
        master = dd._master
        assert master is not None
        master._checkpoints.finish = lambda master: None  # type: ignore[method-assign]


def test_what_was_acknowledged_after_the_checkpoint_is_run_again(tmp_path: Path) -> None:
    """The process is killed in the second epoch; its checkpoint is of the first."""
    with interrupted(), opened(tmp_path, checkpoint_every_s=1e-3) as dd:
        seen: list[int] = []

        def watch(stats: dict[str, Any]) -> None:
            seen.append(stats["applied"])

        master = dd._master
        assert master is not None
        dd.train(DATA[:1], yielding(Fails(None)), callbacks=[watch])
        Abandoned(dd)
        master._checkpoints.saving._stopped = True
        dd.train(DATA, yielding(Fails((2, 7))), epochs=2)
    assert dd.version > STEPS
    with opened(tmp_path, resume=True) as dd:
        assert dd.version == STEPS
        assert dd.train(DATA[:1], yielding(Fails(None))).version == STEPS
        result = dd.train(DATA, yielding(Fails(None)), epochs=2)
        assert result.version == STEPS + 2 * PARTITIONS * STEPS
        np.testing.assert_array_equal(dd.model["count"][1:], 2)
        np.testing.assert_array_equal(dd.model["count"][0], 3)


@pytest.mark.parametrize("best", [math.inf, -math.inf, math.nan])
def test_numbers_that_json_has_not_go_on(best: float, tmp_path: Path) -> None:
    """As of ``self.best_loss = float("inf")``."""
    with opened(tmp_path, model() | {"best": best}) as dd:
        result = dd.train(DATA, yielding(Fails(None)))
    assert result.checkpoints_failed == 0
    with opened(tmp_path, model() | {"best": 0.0}, resume=True) as dd:
        assert dd.version == PARTITIONS * STEPS
        assert repr(dd.model["best"]) == repr(best)


def test_optimizer_policy_and_damping_go_on(tmp_path: Path) -> None:
    """With one worker the run that was interrupted ends with the bits of one that was not."""

    def run(folder: Path, at: Any, **options: Any) -> Any:
        dd = opened(
            folder,
            staleness=Ringmaster(),
            merge=RowTrustRegion(2.0),
            max_in_flight=1,
            publish_every=1,
            **options,
        )
        with dd:
            optimizer = Adam(0.1)
            with contextlib.suppress(GradientError):
                dd.train(DATA, slope(Fails(at)), optimizer, batch_size=1, workers=1)
        return dd.model["count"], optimizer.step

    whole, _ = run(tmp_path / "whole", None)
    with (
        interrupted(),
        opened(
            tmp_path / "halves",
            staleness=Ringmaster(),
            merge=RowTrustRegion(2.0),
            max_in_flight=1,
            publish_every=1,
        ) as dd,
    ):
        dd.train(DATA, slope(Fails((2, 3))), Adam(0.1), batch_size=1, workers=1)
    halves, steps = run(tmp_path / "halves", None, resume=True)
    assert steps == PARTITIONS * STEPS
    np.testing.assert_array_equal(halves, whole)


def test_updates_in_the_buffer_go_on(tmp_path: Path) -> None:
    options = MasterOptions(policy=SoftSync(1, 1e6), merge=Sum(), checkpoint=tmp_path)
    master = Master(model(), options)
    master.buffered = [named(0, 0), named(0, 1)]
    master._checkpoints.save(master)
    eventually(lambda: not master._checkpoints._saver.busy or _look(master), "the checkpoint")
    master._checkpoints.close()
    master._sockets.close()
    again = Master(model(), MasterOptions(**{**vars(options), "resume": True}))
    assert [u["count"].sum() for u in again.buffered] == [1, 1]
    again._checkpoints.close()
    again._sockets.close()
    with pytest.raises(ConfigError, match=r"2 updates that wait to be merged; .* with the policy"):
        Master(model(), MasterOptions(checkpoint=tmp_path, resume=True))


def _look(master: Master) -> bool:
    master._checkpoints.look(master)
    return False


def test_a_descent_of_another_kind_is_refused(tmp_path: Path) -> None:
    with interrupted(), opened(tmp_path) as dd:
        dd.train(DATA, slope(Fails((0, 5))), Adam(0.1), batch_size=1)
    with opened(tmp_path, resume=True) as dd:
        with pytest.raises(ConfigError, match=r"state of descent zmqdist\.optim\.Adam; this is"):
            dd.train(DATA, per_batch(Fails(None)), lambda model, update: None, batch_size=1)


@pytest.mark.parametrize(
    ("data", "options", "said"),
    [
        (DATA[:2], {"batch_size": 1}, "begun with 3 partitions, batch_size=1, now .* 2 partitions"),
        (DATA, {"batch_size": 2}, "now the data comes as 3 partitions, batch_size=2"),
        (DATA, {}, "now the data comes as 3 partitions; resume with the same data"),
    ],
)
def test_data_of_another_shape_is_an_error(
    data: Any, options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with interrupted(), opened(tmp_path) as dd:
        dd.train(DATA, per_batch(Fails((2, 2))), batch_size=1)
    with opened(tmp_path, resume=True) as dd:
        with pytest.raises(ConfigError, match=said):
            dd.train(data, per_batch(Fails(None)), **options)
        dd.train(DATA, per_batch(Fails(None)), batch_size=1)
        np.testing.assert_array_equal(dd.model["count"], 1)


def test_max_updates_is_an_end(tmp_path: Path) -> None:
    """A train() that has had enough is over, and is not gone on with."""
    with interrupted(), opened(tmp_path) as dd:
        result = dd.train(DATA, yielding(Fails(None)), max_updates=1)
        raise Crash
    with opened(tmp_path, resume=True) as dd:
        assert dd.train(DATA, yielding(Fails(None)), max_updates=1).version == result.version


# ---- what cannot work ---------------------------------------------------------------------------


def test_nothing_to_go_on_from(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r'there is no checkpoint in .*resume="auto"'):
        opened(tmp_path, resume=True).__enter__()
    with opened(tmp_path, resume="auto") as dd:
        assert dd.version == 0


def test_checkpoints_of_another_run_are_not_overwritten(tmp_path: Path) -> None:
    with opened(tmp_path) as dd:
        dd.train(DATA, yielding(Fails(None)))
    with pytest.raises(CheckpointError, match="holds checkpoints of an earlier run: pass resume"):
        opened(tmp_path).__enter__()


def test_another_model(tmp_path: Path) -> None:
    with opened(tmp_path) as dd:
        dd.train(DATA, yielding(Fails(None)))
    other = {"count": np.zeros((PARTITIONS, STEPS + 1)), "n": 0}
    with pytest.raises(ModelMismatch, match=r"checkpoint .* is of another model: .*'count'"):
        opened(tmp_path, other, resume=True).__enter__()
    assert (other["count"] == 0).all()
    Store(tmp_path).close()  # the directory is free again


def test_two_at_once(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(CheckpointError, match="in use by another master"):
        opened(tmp_path / ".", resume=True).__enter__()


def test_a_port_in_use_leaves_the_directory_free(tmp_path: Path) -> None:
    port = free_port()
    with opened(tmp_path / "a", port=port):
        with pytest.raises(Exception, match="in use by another process"):
            opened(tmp_path / "b", port=port).__enter__()
    Store(tmp_path / "b").close()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"checkpoint": "x", "master": "tcp://h:1"}, "start zmqdist-master with --checkpoint"),
        ({"resume": True}, "resume= needs checkpoint=DIR"),
        ({"checkpoint": "x", "resume": "yes"}, "resume is 'yes'; expected True, False or 'auto'"),
        ({"checkpoint": "x", "checkpoint_every_s": 0}, "checkpoint_every_s is 0; expected"),
    ],
)
def test_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ZmqDist(model(), **options)


# ---- a disk that fails ------------------------------------------------------------------------


def test_training_goes_on_without_a_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with opened(tmp_path, checkpoint_every_s=1e-3) as dd:
        dd.train(DATA, yielding(Fails(None)))
        kept = Store.names(dd._master._checkpoints._saver._store)[-1]  # type: ignore[union-attr]
        monkeypatch.setattr("zmqdist.checkpoint.store._save", full)
        monkeypatch.setattr(Store, "note", full)
        result = dd.train(DATA, yielding(Fails(None)))
        assert result.applied == PARTITIONS * STEPS
        assert result.checkpoints_failed > 0
        monkeypatch.undo()
        monkeypatch.setattr("zmqdist.api.engine_for", None)
    assert "the one before stays, training goes on" in caplog.text
    assert "No space left on device" in caplog.text
    assert "train() ends without a checkpoint of its end" in caplog.text
    assert kept in {path.name for path in tmp_path.iterdir()}
    with opened(tmp_path, resume=True) as dd:  # the disk was there again at the end
        assert dd.version == 2 * PARTITIONS * STEPS


def test_a_descent_that_raised_may_have_spoilt_the_model(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def half_way(model: Any, update: Any) -> None:
        model["n"] += 1
        if model["n"] == 5:
            raise ValueError("half-way")

    with contextlib.suppress(Exception), opened(tmp_path) as dd:
        dd.train(DATA, yielding(Fails(None)), half_way)
    with opened(tmp_path, resume=True) as dd:
        assert dd.model["n"] == dd.version < 5
