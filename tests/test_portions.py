"""Partitions on their way to a worker process."""

from __future__ import annotations

import io
import itertools
import pickle
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqdist import ZmqDist
from zmqdist.engines.portions import PORTION_BYTES, Arriving, portions
from zmqdist.errors import ConfigError, ZmqdistError


def pipe(data: Iterable[Any]) -> io.BytesIO:
    written = io.BytesIO()
    for octets in itertools.chain(portions(data), [None]):
        pickle.dump(octets, written, protocol=5)
    pickle.dump("the next order", written)
    written.seek(0)
    return written


def next_order(orders: io.BytesIO, arriving: Arriving) -> Any:
    arriving.drain()
    return pickle.load(orders)  # noqa: S301


sizes = st.lists(st.integers(0, 3 * PORTION_BYTES), max_size=30)


@given(sizes, st.integers(0, 40), st.sampled_from([list, tuple]))
def test_what_arrives_is_what_was_sent(lengths: list[int], read: int, kind: Any) -> None:
    items = kind(bytes([i]) * length for i, length in enumerate(lengths))
    orders = pipe(items)
    arriving = Arriving(orders)
    assert list(itertools.islice(arriving, read)) == list(items[:read])
    assert next_order(orders, arriving) == "the next order"
    assert list(Arriving(pipe(items))) == list(items)


def test_portions_are_small_and_few() -> None:
    octets = [len(piece) for piece in portions(["x" * 100 + str(i) for i in range(20_000)])]
    assert max(octets) <= PORTION_BYTES
    assert len(octets) < 4 * sum(octets) / PORTION_BYTES + 12  # it begins with one item
    assert octets[0] < 200


def test_what_items_share_is_sent_once_and_stays_shared() -> None:
    shared = bytes(10 * PORTION_BYTES)
    orders = pipe([(shared, str(i) * 10) for i in range(2_000)])
    assert len(orders.getvalue()) < 2 * len(shared)
    arrived = list(Arriving(orders))
    assert len({id(first) for first, _ in arrived}) == 1


class Endless:
    """Made where it is read: a list of it could not be sent."""

    def __iter__(self) -> Iterator[int]:
        return itertools.count()


def test_other_iterables_go_as_they_are() -> None:
    assert list(itertools.islice(Arriving(pipe(Endless())), 3)) == [0, 1, 2]
    orders = pipe(range(10**9))
    assert len(orders.getvalue()) < 200
    arriving = Arriving(orders)
    assert next(arriving) == 0
    assert next_order(orders, arriving) == "the next order"
    assert list(Arriving(pipe({}))) == []


class Broken:
    """Cannot be unpickled."""

    def __reduce__(self) -> Any:
        return sys.intern, (1,)


def test_what_cannot_be_unpickled_leaves_the_pipe_in_order() -> None:
    orders = pipe([1, Broken(), 2])
    arriving = Arriving(orders)
    assert next(arriving) == 1
    with pytest.raises(ConfigError, match="cannot be unpickled in the worker process: TypeError"):
        next(arriving)
    assert next_order(orders, arriving) == "the next order"


@pytest.mark.parametrize("cut", [1, 40, 700])
def test_a_pipe_that_ends_is_nobodys_failure(cut: int) -> None:
    whole = pipe([str(i) * 100 for i in range(9)]).getvalue()
    arriving = Arriving(io.BytesIO(whole[: -len(pickle.dumps("the next order")) - cut]))
    with pytest.raises(SystemExit, match="the driver ended"):
        list(arriving)


# ---- in worker processes --------------------------------------------------------------------


def count(model: Any, items: Iterator[Any]) -> Any:
    return {"n": sum(1 for _ in items)}


def first_only(model: Any, items: Iterator[Any]) -> Any:
    next(items)
    return {"n": 1}


def add(model: Any, update: Any) -> None:
    model["n"] += update["n"]


def test_a_gradient_need_not_read_all() -> None:
    model = {"n": 0}
    data = [["x" * 1000] * 5_000 for _ in range(3)]
    with ZmqDist(model, progress=False) as dd:
        dd.train(data, first_only, add, workers=1)
        assert model["n"] == 3
        dd.train(data, count, add, workers=1)
        assert model["n"] == 15_003


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ((i for i in "generator"), r"partition 1 cannot be sent to a worker process: .*generator"),
        (Broken(), "cannot be unpickled in the worker process: TypeError"),
    ],
    ids=["no way there", "nothing arrives"],
)
def test_a_bad_item_in_the_midst_is_said(item: Any, message: str) -> None:
    model = {"n": 0}
    good = [str(i) * 100 for i in range(5_000)]
    with ZmqDist(model, progress=False) as dd:
        with pytest.raises(ZmqdistError, match=message):
            dd.train([good, [*good, item, *good]], count, add, workers=1)
        model["n"] = 0
        dd.train([good], count, add, workers=1)
    assert model["n"] == 5_000
