"""What a publication costs, and when the next one may follow."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from zmqdist.core.master_state import MasterState
from zmqdist.core.pacing import SHARE
from zmqdist.models import parameters_of
from zmqdist.publisher import Publisher
from zmqdist.staleness import Asynchronous


class Sockets:
    """Takes broadcasts for so many subscribers."""

    def __init__(self, subscribers: int) -> None:
        self.subscribers, self.sent_bytes = subscribers, 0

    def publish(self, topic: bytes, frames: list[Any]) -> None:
        self.sent_bytes += self.subscribers * sum(memoryview(frame).nbytes for frame in frames[1:])


@pytest.mark.parametrize("subscribers", [0, 1, 5])
def test_the_next_version_waits_for_what_has_to_leave(subscribers: int) -> None:
    model = {"w": np.zeros(10_000)}
    state = MasterState(
        "run", Asynchronous(), schema={"w": ["<f8", [10_000]]}, publish_port=0, lease_s=30.0
    )
    sockets: Any = Sockets(subscribers)
    publisher = Publisher(
        parameters_of(model),
        state,
        sockets,
        codec="raw",
        model_bytes=80_000,
        max_pull_bytes=0,
        link_bytes_per_s=1_000.0,
    )
    publisher.publish()
    model["w"] += 1
    state.version += 1
    publisher.touched({}, only=False)
    before = time.monotonic()
    publisher.publish()
    waits_s = state.pacing.not_before - time.monotonic()
    leaves_s = sockets.sent_bytes / 1_000
    assert leaves_s == 80.0 * subscribers
    assert leaves_s / SHARE - 1 <= waits_s <= (leaves_s + time.monotonic() - before) / SHARE
