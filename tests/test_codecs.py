"""Training with codecs that round: nothing of it is lost on the way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support import ThreadEngine
from zmqdist import RowSparse, ZmqDist, api, delta
from zmqdist.core.link import SMALL_BYTES, slowest
from zmqdist.errors import ConfigError, UpdateError
from zmqdist.models.tiers import Tiers
from zmqdist.staleness import BoundedStaleness

STEPS = 60
SHAPE = (40, 3)


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "engine_for", ThreadEngine)


def small_steps(model: Any, items: Any) -> Any:
    for item in items:
        rows = np.arange(item % 2, SHAPE[0], 2)
        yield {
            "w": np.full(SHAPE, 0.11, np.float32),
            "e": RowSparse(rows, np.full((len(rows), 3), 0.23), SHAPE),
            "n": 1,
        }


def model() -> dict[str, Any]:
    return {"w": np.zeros(SHAPE, np.float32), "e": np.zeros(SHAPE), "n": 0}


@pytest.mark.parametrize(("codec", "bits"), [("bitround:1", 1), ("float16", 10)])
@pytest.mark.parametrize("policy", [None, BoundedStaleness(0, on_stale="requeue")])
def test_what_arrives_is_what_was_sent(codec: str, bits: int, policy: Any) -> None:
    """But for what each of two threads keeps at its end."""
    with ZmqDist(model(), codec=codec, staleness=policy) as dd:
        result = dd.train([range(STEPS), range(STEPS)], small_steps, workers=2)
        got = dd.model
    assert got["n"] == result.applied == 2 * STEPS
    for name, total, last in (("w", 0.11 * 2 * STEPS, 0.11), ("e", 0.23 * STEPS, 0.23)):
        left = 2 * 2.0 ** -(bits + 1) * 2 * last
        np.testing.assert_allclose(got[name], total, rtol=1e-5, atol=left)
        assert left < 0.06 * total, "without feedback it would be more"


def test_fewer_bytes() -> None:
    def noise(model: Any, items: Any) -> Any:
        rng = np.random.default_rng(0)
        for _ in items:
            yield {"w": rng.normal(size=100_000)}

    received = {}
    for codec in ("auto", "bitround:7", "float16"):
        with ZmqDist({"w": np.zeros(100_000)}, codec=codec) as dd:
            received[codec] = dd.train([range(10)], noise).bytes_received
    assert received["bitround:7"] < 0.4 * received["auto"]
    assert received["float16"] < 0.3 * received["auto"]


def test_infinity_does_not_become_a_large_number() -> None:
    with ZmqDist({"w": np.zeros(3)}, codec="float16") as dd:
        with pytest.raises(UpdateError, match="NaN or infinite"):
            dd.train([[0]], lambda model, items: {"w": np.array([np.inf, 1, 1])})
        assert (dd.model["w"] == 0).all()
        dd.train([[0]], lambda model, items: {"w": np.ones(3)})
        assert (dd.model["w"] == 1).all(), "and leaves nothing behind"


@pytest.mark.parametrize("codec", ["bitround:3", "float16"])
def test_numbers_in_arrays_of_no_dimension(codec: str) -> None:
    def gradient(model: Any, items: Any) -> Any:
        for _ in items:
            with delta(model) as update:
                model["b"] += 0.1
                model["w"] += 0.1
            yield update

    with ZmqDist({"b": np.array(0.0), "w": np.zeros(2)}, codec=codec) as dd:
        dd.train([range(10)], gradient)
        assert dd.model["b"] == pytest.approx(1.0)
        np.testing.assert_allclose(dd.model["w"], 1.0, atol=0.02)


def test_tiers_round_in_their_own_way() -> None:
    with (
        ZmqDist(model(), codec="float16") as dd,
        pytest.raises(ConfigError, match=r"Tiers\(keep_bits=\)"),
    ):
        dd.train([[0]], small_steps, tiers=Tiers(hot_rows=1))


def test_another_name_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="codec is 'bitround:99'"):
        ZmqDist(model(), codec="bitround:99")


def test_the_master_learns_how_fast_the_links_are() -> None:
    """From the times in updates, as large as these; versions go by it."""
    speeds = []

    def large(model: Any, items: Any) -> Any:
        noise = np.random.default_rng(0).normal(size=SMALL_BYTES // 8)  # does not shrink
        for _ in items:
            yield {"w": noise}

    def descent(model: Any, update: Any) -> None:
        assert dd._master is not None
        speeds.append(slowest(session.link for session in dd._master.state.sessions))

    with ZmqDist({"w": np.zeros(SMALL_BYTES // 8)}) as dd:
        dd.train([range(STEPS)], large, descent)
    assert speeds[0] is None
    assert speeds[-1] is not None
    assert speeds[-1] > 0
