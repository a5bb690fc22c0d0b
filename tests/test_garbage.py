"""What of a worker process the garbage collector looks at."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import numpy as np
import pytest

from zmqdist.engines.job import _structure
from zmqdist.models.base import parameters_of
from zmqdist.models.structure import dump_structure


class Ring:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.ring = self


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


def payload(name: str) -> bytes:
    model = {name: np.zeros(1)}
    return dump_structure(model, parameters_of(model), None)


def test_from_the_second_partition_on_what_stays_is_left_out() -> None:
    _structure(payload("another"))
    gc.unfreeze()
    assert list(_structure(payload("a"))[0]) == ["a"]
    assert gc.get_freeze_count() == 0
    first = _structure(payload("a"))
    assert (frozen := gc.get_freeze_count()) > 1000
    assert _structure(payload("a")) is first
    assert gc.get_freeze_count() == frozen


def test_another_model_has_all_looked_at_again() -> None:
    for _ in range(2):
        _structure(payload("a"))
    ring = weakref.ref(kept := Ring())
    for _ in range(2):
        _structure(payload("b"))
    del kept
    gc.collect()
    assert ring() is not None  # frozen
    _structure(payload("c"))
    gc.collect()
    assert ring() is None
