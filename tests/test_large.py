"""An array of more than 2 GiB passes through every path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zmqdist import Update, ZmqDist

SHAPE = ((1 << 21) + (1 << 10), 1 << 10)
"""Of bytes: 1 MiB more than 2 GiB."""

NEEDED_BYTES = 18 << 30


def ones(model: Any, items: Any) -> Any:
    """Send ones; say what the ends of the array were when the step began."""
    update = np.ones(SHAPE, np.uint8)
    for _ in items:
        w = model["w"]
        yield Update({"w": update}, metrics={"first": float(w[0, 0]), "last": float(w[-1, -1])})


def available_bytes() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_an_array_beyond_2_gib(tmp_path: Path) -> None:
    if available_bytes() < NEEDED_BYTES:
        pytest.skip(f"needs {NEEDED_BYTES >> 30} GiB of memory")
    options: dict[str, Any] = {
        "codec": "lz4",  # what is sent stays small, and is in blocks of less than 2 GiB
        "publish_every": 1,
        "max_in_flight": 1,
        "lease_s": 300.0,
        "checkpoint": tmp_path,
        "checkpoint_every_s": 3600.0,
        "progress": False,
    }
    with ZmqDist({"w": np.zeros(SHAPE, np.uint8)}, **options) as dd:
        result = dd.train([[0, 1]], ones, workers=1)
        assert result.applied == 2
        assert result.bytes_received_decoded >= 2 * np.prod(SHAPE)  # pushed
        assert result.bytes_published_decoded >= 2 * np.prod(SHAPE)  # pulled, then published
        means = [entry for entry in result.history if "last" in entry]
        assert max(entry["first"] for entry in means) == max(e["last"] for e in means) > 0
        assert dd.model["w"].min() == dd.model["w"].max() == 2
        assert result.checkpoints >= 1
    del dd
    with ZmqDist({"w": np.zeros(SHAPE, np.uint8)}, resume=True, **options) as again:
        assert again.model["w"].min() == again.model["w"].max() == 2
