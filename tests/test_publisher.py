"""What a publication costs, and when the next one may follow."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from zmqdist.core.master_state import MasterState
from zmqdist.core.messages import Hello
from zmqdist.core.pacing import SHARE, Pacing
from zmqdist.models import parameters_of
from zmqdist.publisher import Publisher
from zmqdist.staleness import Asynchronous


class Sockets:
    """Takes broadcasts for so many subscribers."""

    def __init__(self, subscribers: int) -> None:
        self.subscribers, self.sent_bytes = subscribers, 0

    def publish(self, topic: bytes, frames: list[Any]) -> None:
        self.sent_bytes += self.subscribers * sum(memoryview(frame).nbytes for frame in frames[1:])


SIZE = 10_000
MODEL_BYTES = 8 * SIZE


def publisher_of(
    model: dict[str, Any],
    sockets: Any,
    codec: str,
    link_bytes_per_s: float,
    pacing: Pacing | None = None,
) -> tuple[MasterState, Publisher]:
    """Return a publisher of a model that has one array of so many numbers, and its state."""
    state = MasterState(
        "run", Asynchronous(), schema={"w": ["<f8", [SIZE]]}, lease_s=30.0, pacing=pacing
    )
    publisher = Publisher(
        parameters_of(model),
        state,
        sockets,
        codec=codec,
        model_bytes=MODEL_BYTES,
        max_pull_bytes=0,
        link_bytes_per_s=link_bytes_per_s,
    )
    return state, publisher


@pytest.mark.parametrize("subscribers", [0, 1, 5])
def test_the_next_version_waits_for_what_has_to_leave(subscribers: int) -> None:
    model, sockets = {"w": np.zeros(SIZE)}, Sockets(subscribers)
    state, publisher = publisher_of(model, sockets, "raw", 1_000.0)
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


@pytest.mark.parametrize(
    ("codec", "speeds", "receivers", "cap", "compressed"),
    [
        ("auto", [], 1, None, True),
        ("auto", [1e15], 1, None, False),
        ("auto", [1e15, 1e3], 1, None, True),
        ("auto", [1e15], 10**12, None, True),  # which it leaves for one by one
        ("auto", [1e15], 1, 1e9, True),  # bytes count, whatever the links are like
        ("lz4", [1e15], 1, None, True),
        ("raw", [1e3], 1, None, False),
    ],
)
def test_versions_are_compressed_where_that_is_faster(
    codec: str, speeds: list[float], receivers: int, cap: float | None, compressed: bool
) -> None:
    """The slowest of the workers' links decides, once it is known what compressing takes."""
    model, sockets = {"w": np.zeros(SIZE)}, Sockets(receivers)
    state, publisher = publisher_of(model, sockets, codec, 1e9, Pacing(bytes_per_s=cap))
    for number, speed in enumerate([None, *speeds]):
        session = state.sessions.new(b"", Hello(state.run, 0, number, 0, ""), 0.0)
        state.sessions.open(session)
        if speed is not None:
            session.link.moved(1 << 20, (1 << 20) / speed)
    sent_bytes = []
    for version in range(3):
        state.version = version
        model["w"] += 1
        publisher.touched({}, only=False)
        sockets.sent_bytes = 0
        publisher.publish()
        sent_bytes.append(sockets.sent_bytes)
    assert (sent_bytes[-1] < receivers * MODEL_BYTES) == compressed
