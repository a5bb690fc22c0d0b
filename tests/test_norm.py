"""`max_norm`: what an update may change at most, whoever sent it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zmqdist import RowSparse, ZmqDist
from zmqdist.errors import ConfigError
from zmqdist.wire.leaves import tree_norm


def test_norm_of_a_tree() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    rows = RowSparse([1], np.full((1, 2), 3.0, "f4"), (9, 2))
    tree = {
        "a": np.array([3.0, 4.0]),
        "b": [rows, 1.0, 2j, np.float32(2.0)],
        "c": sparse.csr_array(np.diag([2.0, 0.0])),
        "counts": (np.arange(100), 7, True, "text", None),
    }
    assert tree_norm(tree) == pytest.approx((25 + 18 + 1 + 4 + 4 + 4) ** 0.5)
    assert tree_norm({"a": np.full(10_000, 100.0, "f2")}) == pytest.approx(10_000.0)
    assert tree_norm({}) == 0
    assert tree_norm([np.full(4, 1e200), np.zeros(3)]) == pytest.approx(2e200)


@pytest.mark.usefixtures("threads")
def test_larger_updates_are_scaled_down_and_counted() -> None:
    def gradient(model: Any, items: Any) -> Any:
        size = {1: 1.0, 2: 1e9, 3: 5.0}[items[0]]
        return {"w": np.array([0.6, 0.8]) * size, "n": 1}

    with ZmqDist({"w": np.zeros(2), "n": 0}, max_norm=5.0) as dd:
        result = dd.train([[1, 2, 3]], gradient, batch_size=1)
        assert result.clipped == 1
        assert dd.model["n"] == 3  # a count is no gradient
        np.testing.assert_allclose(dd.model["w"], np.array([0.6, 0.8]) * (1 + 5 + 5))


@pytest.mark.parametrize("norm", [0, -1.0, float("nan")])
def test_wrong_norms(norm: float) -> None:
    with pytest.raises(ConfigError, match=r"max_norm is .*; expected a number > 0"):
        ZmqDist({"w": np.zeros(2)}, max_norm=norm)
