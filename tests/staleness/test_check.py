"""Every policy keeps the rules, and each rule can be broken."""

from __future__ import annotations

import pickle
import random
from collections.abc import Mapping
from typing import Any

import pytest

import zmqdist.staleness
from zmqdist.staleness import (
    APPLY,
    REJECT,
    REQUEUE,
    Arrival,
    Asynchronous,
    BackupWorkers,
    BoundedStaleness,
    BulkSynchronous,
    Composed,
    Decision,
    DelayCompensated,
    DynamicStaleSynchronous,
    FedBuff,
    GapAware,
    Needs,
    Policy,
    RateRescaled,
    Rennala,
    Ringmaster,
    SoftSync,
    StalenessAware,
    StaleSynchronous,
    Verdict,
    check_policy,
)
from zmqdist.staleness.weights import _WEIGHTS

POLICIES: list[Policy] = [
    Asynchronous(),
    *(BoundedStaleness(n, how) for n in (0, 3) for how in ("reject", "requeue", "scale")),
    *(Ringmaster(n, how) for n in (1, 5, "auto") for how in ("reject", "requeue")),
    *(StaleSynchronous(n, how) for n in (0, 3) for how in ("eager", "lazy")),
    *(DynamicStaleSynchronous(n, 3, how) for n in (0, 3) for how in ("eager", "lazy")),
    SoftSync(1),
    SoftSync(3),
    FedBuff(4),
    *(Rennala(5, how) for how in ("reject", "requeue")),
    BulkSynchronous(),
    *(BackupWorkers(2, how) for how in ("reject", "requeue")),
    *(StalenessAware(weight) for weight in _WEIGHTS),
    StalenessAware("polynomial", exponent=2.0),
    StalenessAware("hinge", knee=2, slope=0.5),
    RateRescaled(),
    RateRescaled(window=1, cap=1.5),
    *(
        DelayCompensated(adaptive=adaptive, lr=lr)
        for adaptive in (False, True)
        for lr in (None, 0.1)
    ),
    *(GapAware(by) for by in ("element", "array", "row")),
    GapAware("row", lr=0.1),
    Composed(StaleSynchronous(3), StalenessAware("inverse")),
    Composed(Ringmaster("auto"), RateRescaled(), DelayCompensated(adaptive=True), SoftSync(2)),
]


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_policy(policy: Policy) -> None:
    check_policy(policy)
    assert pickle.loads(pickle.dumps(policy)) == policy  # noqa: S301
    assert eval(repr(policy), vars(zmqdist.staleness)) == policy  # noqa: S307


def test_no_policy_is_left_out() -> None:
    every = {
        cls
        for name in zmqdist.staleness.__all__
        if isinstance(cls := getattr(zmqdist.staleness, name), type) and issubclass(cls, Policy)
    }
    assert every - {type(policy) for policy in POLICIES} == {Policy}


def test_policies_are_all_different() -> None:
    assert len(set(POLICIES)) == len(POLICIES)


# ---- each rule, broken ---------------------------------------------------------------------


class Learning(Policy):
    """Applies, and counts; the base of those that do it wrong."""

    def __init__(self) -> None:
        self._count = 0

    def decide(self, update: Arrival) -> Decision:
        self._count += 1
        return APPLY


class Shared(Learning):
    seen: list[int] = []  # noqa: RUF012 - that is what is wrong

    def decide(self, update: Arrival) -> Decision:
        self.seen.append(update.tau)
        return Decision(Verdict.APPLY, 1 / len(self.seen))


class Unequal(Policy):
    def __init__(self, n: int = 3) -> None:
        self.n = n + 1


class ForeignState(Learning):
    def state(self) -> dict[str, Any]:
        return {"count": object()}


class LosesState(Learning):
    def decide(self, update: Arrival) -> Decision:
        self._count += 1
        return Decision(Verdict.APPLY, 1 / self._count)

    def state(self) -> dict[str, Any]:
        return {"count": self._count}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._count = 1


class ForgetsOnlyHalf(LosesState):
    def state(self) -> dict[str, Any]:
        return {}


class NoDecision(Policy):
    def decide(self, update: Arrival) -> Any:
        return update.tau < 3


class NegativeWeight(Policy):
    def decide(self, update: Arrival) -> Decision:
        return Decision(Verdict.APPLY, 2.0 - update.tau)


class RejectsInSecret(Policy):
    def decide(self, update: Arrival) -> Decision:
        return REJECT if update.tau > 2 else APPLY


class NeverContent(Policy):
    def decide(self, update: Arrival) -> Decision:
        return REQUEUE


class Impatient(Policy):
    @property
    def patience(self) -> int:
        return 2


class HoldsTheSlowest(Policy):
    @property
    def gates(self) -> bool:
        return True

    def limit(self, worker: int, slowest: int) -> int:
        return slowest - 1


class FallingLimit(HoldsTheSlowest):
    def limit(self, worker: int, slowest: int) -> int:
        return max(slowest, 100 - slowest)


class GatesInSecret(Policy):
    def limit(self, worker: int, slowest: int) -> int:
        return slowest


class BuffersInSecret(Policy):
    def flush_size(self, workers: int) -> int:
        return 3


class WaitsForEver(BulkSynchronous):
    def flush_size(self, workers: int) -> int:
        return workers + 1


class ChokesOnStrangers(Policy):
    needs = Needs(workers=True)

    def left(self, worker: int) -> None:
        raise KeyError(worker)


class InfiniteFigure(Policy):
    def figures(self) -> dict[str, float]:
        return {"noise": float("inf")}


class Transforming(Policy):
    @property
    def transforms(self) -> bool:
        return True


class InPlace(Transforming):
    def transform(self, update: Any, base: Any) -> Any:
        update["w"] *= 0.5
        return update


class Renames(Transforming):
    def transform(self, update: Any, base: Any) -> Any:
        return {f"new_{name}": part for name, part in update.items()}


class AlwaysHalves(Transforming):
    def transform(self, update: Any, base: Any) -> Any:
        return {**update, "w": update["w"] / 2}


class Random(Policy):
    def decide(self, update: Arrival) -> Decision:
        return Decision(Verdict.APPLY, random.random())


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (Unequal(), "expected an equal policy"),
        (Shared(), "the same updates got different answers"),
        (Random(), "the same updates got different answers"),
        (ForeignState(), "neither JSON nor an array"),
        (LosesState(), "differs"),
        (ForgetsOnlyHalf(), "decisions differ after a resume"),
        (NoDecision(), r"decide\(.*\) is True"),
        (NegativeWeight(), "has the weight -"),
        (RejectsInSecret(), "`rejects` is False"),
        (NeverContent(), "could compute for ever"),
        (Impatient(), "staler than the patience 2"),
        (HoldsTheSlowest(), "the slowest worker cannot start"),
        (FallingLimit(), "falls when the slowest gets on"),
        (GatesInSecret(), "`gates` is False"),
        (BuffersInSecret(), "`buffers` is False"),
        (WaitsForEver(), "all would wait"),
        (ChokesOnStrangers(), "1"),
        (InfiniteFigure(), "expected finite numbers"),
        (InPlace(), "in place"),
        (Renames(), "changed names"),
        (AlwaysHalves(), "has not moved"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_rule_can_be_broken(policy: Policy, message: str) -> None:
    with pytest.raises((AssertionError, KeyError), match=message):
        check_policy(policy)
