from __future__ import annotations

import pickle

import pytest

from zmqdist.errors import ConfigError
from zmqdist.staleness import (
    APPLY,
    REJECT,
    REQUEUE,
    Arrival,
    Asynchronous,
    BoundedStaleness,
    Decision,
    Policy,
    StaleSynchronous,
    Verdict,
    default_policy,
    parse_policy,
)


def scaled(factor: float) -> Decision:
    return Decision(Verdict.APPLY, factor)


@pytest.mark.parametrize(
    ("policy", "decisions"),
    [
        (Asynchronous(), [APPLY] * 6),
        (StaleSynchronous(0), [APPLY] * 6),
        (StaleSynchronous(2, "lazy"), [APPLY] * 6),
        (BoundedStaleness(0), [APPLY, REJECT, REJECT]),
        (BoundedStaleness(2), [APPLY, APPLY, APPLY, REJECT, REJECT]),
        (BoundedStaleness(2, "requeue"), [APPLY, APPLY, APPLY, REQUEUE, REQUEUE]),
        (BoundedStaleness(0, "scale"), [APPLY, scaled(1 / 2), scaled(1 / 3), scaled(1 / 4)]),
        (BoundedStaleness(2, "scale"), [APPLY, APPLY, APPLY, scaled(3 / 4), scaled(3 / 5)]),
    ],
    ids=repr,
)
def test_decide_by_staleness(policy: Policy, decisions: list[Decision]) -> None:
    assert [policy.decide(Arrival(tau)) for tau in range(len(decisions))] == decisions


@pytest.mark.parametrize(
    ("policy", "limits"),
    [
        (Asynchronous(), [None, None]),
        (BoundedStaleness(0), [None, None]),
        (StaleSynchronous(0), [0, 1, 2]),
        (StaleSynchronous(3, "lazy"), [3, 4, 5]),
    ],
    ids=repr,
)
def test_limit_by_slowest_clock(policy: Policy, limits: list[int | None]) -> None:
    assert [policy.limit(1, clock) for clock in range(len(limits))] == limits


def test_only_lazy_refresh_has_a_lazy_slack() -> None:
    assert StaleSynchronous(3, "lazy").lazy_slack == 3
    assert StaleSynchronous(3).lazy_slack is None
    assert BoundedStaleness(3).lazy_slack is None


@pytest.mark.parametrize("number", [-1, True, 1.0, "1", None])
@pytest.mark.parametrize("policy", [BoundedStaleness, StaleSynchronous])
def test_bad_number_is_refused(policy: type, number: object) -> None:
    with pytest.raises(ConfigError, match="expected an integer >= 0"):
        policy(number)


def test_bad_word_is_refused_and_named() -> None:
    with pytest.raises(ConfigError, match=r"on_stale is 'drop'.*'requeue'"):
        BoundedStaleness(1, "drop")
    with pytest.raises(ConfigError, match=r"refresh is 'late'.*'lazy'"):
        StaleSynchronous(1, "late")


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("async", Asynchronous()),
        ("bounded:8", BoundedStaleness(8, "reject")),
        ("bounded:0:requeue", BoundedStaleness(0, "requeue")),
        ("bounded:8:scale", BoundedStaleness(8, "scale")),
        ("ssp:3", StaleSynchronous(3, "eager")),
        ("ssp:0:lazy", StaleSynchronous(0, "lazy")),
    ],
)
def test_parse_policy(text: str, policy: Policy) -> None:
    assert parse_policy(text) == policy


@pytest.mark.parametrize(
    "text",
    [
        *("", "sync", "async:1", "bounded", "bounded:", "bounded:x", "bounded:-1"),
        *("bounded:1:drop", "bounded:1:reject:2", "ssp", "ssp:1.5", "ssp:1:late", "ssp:1:lazy:2"),
    ],
)
def test_parse_policy_refuses(text: str) -> None:
    with pytest.raises(ConfigError, match=f"staleness policy {text!r}"):
        parse_policy(text)


def test_policies_are_values() -> None:
    policies = [
        Asynchronous(),
        *(BoundedStaleness(n, how) for n in (0, 1) for how in ("reject", "requeue", "scale")),
        *(StaleSynchronous(n, how) for n in (0, 1) for how in ("eager", "lazy")),
    ]
    copies = [pickle.loads(pickle.dumps(policy)) for policy in policies]  # noqa: S301
    assert copies == policies
    assert len(set(policies) | set(copies)) == len(policies)
    assert BoundedStaleness(1) != StaleSynchronous(1)
    assert repr(policies[2]) == "BoundedStaleness(max_staleness=0, on_stale='requeue')"
    assert repr(Asynchronous()) == "Asynchronous()"


def test_default_loses_no_data() -> None:
    assert default_policy().decide(Arrival(64)) == APPLY
    assert default_policy().decide(Arrival(65)) == REQUEUE
