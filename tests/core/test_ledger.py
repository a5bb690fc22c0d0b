from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqdist.core.ledger import Ledger, Outcome, Standing
from zmqdist.errors import LocalProtocolError

APPLIED, REJECTED, SKIPPED = Outcome


@pytest.mark.parametrize(
    ("settled", "next_", "ahead"),
    [
        ([], 0, set()),
        ([0], 1, set()),
        ([0, 1, 2], 3, set()),
        ([1], 0, {1}),
        ([2, 1], 0, {1, 2}),
        ([2, 1, 0], 3, set()),
        ([3, 0, 5, 1], 2, {3, 5}),
    ],
)
def test_standing(settled: list[int], next_: int, ahead: set[int]) -> None:
    standing = Standing()
    for step in settled:
        standing.settle(step, APPLIED)
    assert (standing.next, standing.ahead) == (next_, ahead)


def test_a_step_is_settled_once_and_keeps_its_outcome() -> None:
    standing = Standing()
    for step, outcome in enumerate([REJECTED, APPLIED, SKIPPED]):
        assert standing.outcome(step) is None
        standing.settle(step, outcome)
        with pytest.raises(LocalProtocolError, match="settled already"):
            standing.settle(step, APPLIED)
    assert [standing.outcome(s) for s in range(4)] == [REJECTED, APPLIED, SKIPPED, None]


@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.sampled_from(Outcome)), unique_by=lambda pair: pair[0]
    )
)
def test_any_order_equals_a_plain_dict(settled: list[tuple[int, Outcome]]) -> None:
    standing, model = Standing(), {}
    for step, outcome in settled:
        standing.settle(step, outcome)
        model[step] = outcome
        assert {s: standing.outcome(s) for s in range(22)} == {s: model.get(s) for s in range(22)}
        assert standing.next == next(s for s in range(22) if s not in model)
        assert standing.ahead == {s for s in model if s > standing.next}


def test_epochs_are_numbered_and_closed() -> None:
    ledger = Ledger()
    assert [ledger.open(2), ledger.open(1)] == [0, 1]
    assert ledger.standing(0, 1) is not ledger.standing(0, 0)
    assert ledger.standing(0, 2) is None
    assert ledger.standing(0, -1) is None
    ledger.close(0)
    ledger.close(0)
    assert not ledger.is_open(0)
    assert ledger.is_open(1)
    assert ledger.standing(0, 0) is None
    assert not ledger.finish(0, 0, 0)
    assert ledger.open(1) == 2


def test_a_partition_is_complete_without_holes_only() -> None:
    ledger = Ledger()
    epoch = ledger.open(3)
    standing = ledger.standing(epoch, 1)
    assert standing is not None
    standing.settle(1, APPLIED)
    assert not ledger.finish(epoch, 1, 2)
    standing.settle(0, APPLIED)
    assert not ledger.finish(epoch, 1, 3)
    assert ledger.missing(epoch) == [0, 1, 2]
    assert ledger.finish(epoch, 1, 2)
    assert ledger.finish(epoch, 1, 2)
    assert ledger.finish(epoch, 2, 0)
    assert standing.length == 2
    assert ledger.missing(epoch) == [0]
    assert not ledger.finish(epoch, 1, 3)
    assert standing.length == 2


@pytest.mark.parametrize(
    "broken", [Standing(next=2, ahead={2}), Standing(next=2, ahead={1}), Standing(next=1, length=2)]
)
def test_invariants_are_checked(broken: Standing) -> None:
    ledger = Ledger()
    ledger.open(1)
    ledger.check_invariants()
    ledger._epochs[0][0] = broken
    with pytest.raises(AssertionError):
        ledger.check_invariants()
