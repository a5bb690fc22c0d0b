"""Buffers that are used again, and never while somebody reads them."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from tests.support import Running, epoch, serving, work
from zmqdist.coding import UpdateCoder
from zmqdist.core.messages import Push
from zmqdist.outgoing import Outgoing
from zmqdist.wire.codec import Memory, encode_array
from zmqdist.wire.plan import decode_array
from zmqdist.wire.pool import Pool

N = Pool.LARGE_BYTES


def address(array: np.ndarray[Any, Any]) -> int:
    return int(array.__array_interface__["data"][0])


def where(frame: bytes | memoryview) -> int:
    return address(np.frombuffer(frame, np.uint8))


def test_a_buffer_comes_back() -> None:
    pool = Pool()
    first = pool.take(N)
    pool.give([first.data[:10], first.data[10:]])
    assert address(pool.take(N - 100)) == address(first)
    assert address(pool.take(N)) != address(first)


def test_only_what_fits_and_is_large() -> None:
    pool = Pool()
    large, small = pool.take(4 * N), pool.take(N - 1)
    pool.give([large.data, small.data, b"bytes"])
    assert pool.take(N).size == N
    assert pool.take(4 * N - 8).base is large
    assert len(pool._free) == 0


def test_a_few_are_kept() -> None:
    pool = Pool()
    for _ in range(3 * Pool.KEPT):
        pool.give([np.empty(N, np.uint8).data])
    assert len(pool._free) == Pool.KEPT


def test_no_two_have_one_buffer() -> None:
    pool, lent, lock = Pool(), set[int](), threading.Lock()

    def lend() -> None:
        for _ in range(2000):
            buffer = pool.take(N)
            with lock:
                assert address(buffer) not in lent
                lent.add(address(buffer))
            with lock:
                lent.remove(address(buffer))
            pool.give([buffer.data])

    for thread in [Running(lend) for _ in range(3)]:
        thread.join()


def test_arrays_in_buffers_that_were_used() -> None:
    memory = Memory()
    for value in range(5):
        array = np.full((3, N), value, ">f4")[:, ::2]
        entry, frames = encode_array(array, "raw", memory=memory)
        np.testing.assert_array_equal(decode_array(entry, frames), array)
        memory.pool.give(frames)


def test_updates_of_a_worker_use_buffers_again() -> None:
    model, sums = {"w": np.zeros(N)}, []

    def gradient(model: Any, items: Any) -> Any:
        for item in items:
            yield {"w": np.full(N, float(item))}

    with serving(model) as master, epoch(master) as assignment:
        master.descent = lambda model, update: sums.append((update["w"][0], update["w"].std()))
        assert work(assignment, {"w": np.zeros(N)}, gradient, range(20)).complete
    assert sums == [(float(item), 0.0) for item in range(20)]


def test_a_buffer_that_was_sent_twice_is_left_alone() -> None:
    outgoing, noise = Outgoing(UpdateCoder("raw")), np.random.default_rng(0).random(N)
    for step, sends in ((0, 1), (1, 2), (2, 1)):
        outgoing.keep(step, outgoing.encode(step, {"w": noise}))
        frames = [outgoing.frames(Push(1, step, 0))[1:] for _ in range(sends)]
        outgoing.forget(step, applied=True)
        again, before = outgoing.encode(step, {"w": noise}).frames[0], frames[0][0]
        assert (where(again) == where(before)) == (sends == 1)
        assert len(outgoing.frames(Push(1, step, 0))) == 1  # it is forgotten


def test_what_is_computed_again_after_two_copies_is_left_alone() -> None:
    """The answer to the second copy may be taken for that to the new update, still under way."""
    outgoing, noise = Outgoing(UpdateCoder("raw")), np.random.default_rng(0).random(N)
    for sends in (2, 1):
        outgoing.keep(0, outgoing.encode(0, {"w": noise}))
        frames = [outgoing.frames(Push(1, 0, 0))[1:] for _ in range(sends)]
        outgoing.forget(0, applied=False)
    assert where(outgoing.encode(1, {"w": noise}).frames[0]) != where(frames[0][0])
