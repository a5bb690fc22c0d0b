"""Messages to frames and back: the header, and the tree in it that is read only once."""

from __future__ import annotations

import json
import weakref
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from zmqdist.core.messages import Heartbeat, Push, Rejoin
from zmqdist.errors import LocalProtocolError, RemoteProtocolError
from zmqdist.wire import frames as module
from zmqdist.wire.frames import MAX_HEADER_BYTES, Received, pack, unpack
from zmqdist.wire.plan import FRAME_BYTES, Look
from zmqdist.wire.tree import encode_tree

PUSH = Push(1, 2, 3, metrics={"loss": 0.5})
LIMIT = 1 << 20


def packed(tree: Any, push: Push = PUSH) -> list[bytes]:
    return [bytes(frame) for frame in pack(push, encode_tree(tree))]


def test_a_message_with_its_tree() -> None:
    received = unpack(packed({"w": np.arange(1000.0), "n": 3}))
    assert received.message == PUSH
    tree = received.decode(LIMIT)
    np.testing.assert_array_equal(tree["w"], np.arange(1000.0))
    assert tree["n"] == 3


def test_the_header_is_one_json_object() -> None:
    header = json.loads(packed({"n": 3})[0])
    assert header["kind"] == "push"
    assert header["tree"] == {"dict": [["n", 3]]}
    assert list(header)[-1] == "tree"
    assert packed({"n": 3})[0].count(b"\n") == 1


@pytest.mark.parametrize("indent", [None, 1])
def test_the_tree_may_stand_anywhere(indent: int | None) -> None:
    octets, *arrays = packed({"w": np.arange(1000.0)})
    header = json.loads(octets)
    moved = {"tree": header.pop("tree"), **header}
    received = unpack([json.dumps(moved, indent=indent).encode(), *arrays])
    assert received.message == PUSH
    np.testing.assert_array_equal(received.decode(LIMIT)["w"], np.arange(1000.0))


@pytest.mark.parametrize("name", ["tree", ',\n"tree":', "\n"])
def test_a_metric_of_that_name_is_no_tree(name: str) -> None:
    push = Push(1, 2, 3, empty=True, metrics={"a": 1.0, name: 2.0})
    received = unpack(pack(push))
    assert received.message == push
    assert received.tree is None
    assert unpack(packed({"n": 1}, push)).decode(LIMIT) == {"n": 1}
    assert unpack(packed({"n": 1}, push)).message == push


def test_a_tree_that_comes_again_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = packed({"w": np.arange(80.0)}), packed({"w": np.arange(80.0) + 1})
    unpack(first).decode(LIMIT)
    monkeypatch.setattr(module, "plan_tree", None)
    np.testing.assert_array_equal(unpack(second).decode(LIMIT)["w"], np.arange(80.0) + 1)


def test_decoded_trees_share_nothing() -> None:
    octets = packed({"list": [1, {"a": 2}], "w": np.zeros(100)})
    one, other = unpack(octets).decode(LIMIT), unpack(octets).decode(LIMIT)
    one["list"].append(3)
    one["list"][1]["a"] = 4
    one["w"] += 1
    assert other["list"] == [1, {"a": 2}]
    assert not other["w"].any()


def test_a_kept_tree_is_held_to_the_limit_and_to_its_frames() -> None:
    octets = packed({"w": np.zeros(100)})
    assert unpack(octets).decode(800)["w"].nbytes == 800
    with pytest.raises(RemoteProtocolError, match="at most 799"):
        unpack(octets).decode(799)
    with pytest.raises(RemoteProtocolError, match="came with 0"):
        unpack(octets[:1]).decode(800)


def test_a_large_tree_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    octets = packed({f"w{n}": np.zeros(1) for n in range(200)})
    monkeypatch.setattr(module, "_kept_plan", None)
    assert len(unpack(octets).decode(LIMIT)) == 200


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"[",
        b"\xff",
        b'{"a":NaN}',
        b'{"zmqdist":1,"kind":"heartbeat","session":1,\n"tree":}',
        b'{"zmqdist":1,"kind":"heartbeat","session":1,\n"tree":nul}',
        b'{"zmqdist":1,"kind":"heartbeat","session":1,\n"tree":NaN}',
        b'{"zmqdist":1,"kind":"heartbeat","session":1,\n"tree":' + b"[" * 100_000 + b"}",
        b'{"zmqdist":1,"kind":"heartbeat","session":1,\n"tree":3',
        b'{"zmqdist":1,"kind":"heartbeat","session":NaN,\n"tree":3}',
        b"0" * (MAX_HEADER_BYTES + 1),
    ],
)
def test_what_is_no_header_is_refused(octets: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        unpack([octets]).decode(LIMIT)


def test_no_frames_and_too_long_headers_are_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="without frames"):
        unpack([])
    with pytest.raises(LocalProtocolError, match="at most"):
        pack(Push(1, 2, 3, metrics={f"m{n}": 0.5 for n in range(100_000)}))
    assert unpack(pack(Heartbeat(1))).tree is None


def test_frames_are_freed_while_they_are_decoded() -> None:
    """So that a large model takes its size once, and not as frames and arrays at a time."""
    blocks = [np.full(FRAME_BYTES // 8, float(number)) for number in range(4)]
    alive = [weakref.ref(block) for block in blocks]
    seen: list[int] = []

    class Watching(Look):
        def at(self, block: NDArray[Any]) -> None:
            seen.append(sum(ref() is not None for ref in alive))

    spec = encode_tree(np.concatenate(blocks), "raw").spec
    received = Received(Rejoin(1), spec, [block.data.cast("B") for block in blocks])
    del blocks
    decoded = received.decode(4 * FRAME_BYTES, Watching())
    assert seen == [4, 3, 2, 1]
    assert not any(ref() is not None for ref in alive)
    np.testing.assert_array_equal(decoded[:: FRAME_BYTES // 8], np.arange(4.0))
