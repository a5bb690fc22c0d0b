"""What each policy decides, by table and by formula."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest

from zmqdist.errors import ConfigError
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
    DynamicStaleSynchronous,
    FedBuff,
    Needs,
    Policy,
    RateRescaled,
    Rennala,
    Ringmaster,
    SoftSync,
    StalenessAware,
    StaleSynchronous,
    Verdict,
    as_policy,
    default_policy,
    parse_policy,
)

# ---- weights ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "weights"),
    [
        (StalenessAware(), [1, 1, 1 / 2, 1 / 3, 1 / 4]),
        (StalenessAware("inverse1"), [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5]),
        (StalenessAware("inverse-sqrt"), [1, 2**-0.5, 3**-0.5, 1 / 2, 5**-0.5]),
        (StalenessAware("polynomial"), [1, 2**-0.5, 3**-0.5, 1 / 2, 5**-0.5]),
        (StalenessAware("polynomial", exponent=2), [1, 1 / 4, 1 / 9, 1 / 16, 1 / 25]),
        (StalenessAware("hinge"), [1, 1, 1, 1, 1, 1 / 11, 1 / 21]),
        (StalenessAware("hinge", knee=1, slope=1), [1, 1, 1 / 2, 1 / 3, 1 / 4]),
        (StalenessAware("delay-adaptive"), [1, 1, 1, 1, 3 / 4, 3 / 5]),
        (StalenessAware("constant"), [1, 1, 1, 1]),
        (FedBuff(), [1, 2**-0.5, 3**-0.5, 1 / 2, 5**-0.5]),
    ],
    ids=repr,
)
def test_weight_by_staleness(policy: Policy, weights: list[float]) -> None:
    decisions = [policy.decide(Arrival(tau, workers=3)) for tau in range(len(weights))]
    assert [decision.weight for decision in decisions] == pytest.approx(weights)
    assert {decision.verdict for decision in decisions} == {Verdict.APPLY}


def test_rate_rescaled_gives_all_workers_the_same_say() -> None:
    policy, rng = RateRescaled(), Random(0)
    times = {1: 0.1, 2: 0.2, 3: 0.5}
    say: dict[int, float] = dict.fromkeys(times, 0.0)
    next_at = {worker: rng.random() * took for worker, took in times.items()}
    total = 0
    while (now := min(next_at.values())) < 400:
        worker = min(next_at, key=next_at.__getitem__)
        next_at[worker] += times[worker]
        update = Arrival(0, worker=worker, workers=3, now=now, compute_s=times[worker])
        weight = policy.decide(update).weight
        say[worker] += weight
        total += 1
    assert min(say.values()) == pytest.approx(max(say.values()), rel=0.02)
    assert sum(say.values()) / total == pytest.approx(1, rel=0.02)  # the mean weight


def test_rate_rescaled_averages_caps_and_forgets() -> None:
    policy = RateRescaled(window=2, cap=3.0)
    assert policy.decide(Arrival(0, worker=1, compute_s=0.0)) == APPLY
    for took in (1.0, 3.0, 3.0):  # means over the last two, roughly: 1, 2, 2.5
        policy.decide(Arrival(0, worker=1, workers=9, compute_s=took))
    assert policy._times[1] == (2, 2.5)
    assert policy.decide(Arrival(0, worker=2, workers=9, compute_s=1000.0)).weight == 3.0
    policy.left(2)
    assert set(policy._times) == {1}


# ---- bounds -----------------------------------------------------------------------


def test_ringmaster_is_the_bound_off_by_one() -> None:
    for tau in range(8):
        bounded = BoundedStaleness(3, "requeue").decide(Arrival(tau))
        assert Ringmaster(4, "requeue").decide(Arrival(tau)) == bounded
    assert Ringmaster(4).patience == BoundedStaleness(3).patience == 3
    assert Ringmaster(1).decide(Arrival(0)) == APPLY
    assert Ringmaster(1).decide(Arrival(1)) == REJECT
    assert BoundedStaleness(3, "scale").patience is None


def test_ringmaster_without_halves_follows_the_square_root_of_the_version() -> None:
    policy = Ringmaster("auto", "requeue")
    bounds = {}
    for version in (0, 1, 3, 4, 99, 100, 10_000):
        policy.decide(Arrival(0, version=version, workers=100))
        bounds[version] = policy.bound
    assert bounds == {0: 25, 1: 25, 3: 25, 4: 25, 99: 25, 100: 25, 10_000: 100}  # floor n / 4
    policy.decide(Arrival(0, version=10_000, workers=2))
    assert policy.bound == 32  # ceiling 16 n
    assert policy.patience == 31
    assert policy.figures() == {"bound": 32}


def feed(policy: Ringmaster, noise: float, count: int = 1, workers: int = 4) -> int:
    for _ in range(count):
        policy.decide(Arrival(0, version=5, workers=workers, half_dot=2.0, half_sq=2.0 * noise))
    return policy.bound


def test_ringmaster_measures_the_noise() -> None:
    policy = Ringmaster("auto")
    assert feed(policy, 10.2, 99) == 2  # not enough seen: the schedule, floor(sqrt(5))
    assert feed(policy, 10.2) == 11
    assert policy.figures() == {"bound": 11, "noise_scale": pytest.approx(10.2)}


def test_ringmaster_moves_the_bound_by_factors_of_two_only() -> None:
    policy = Ringmaster("auto")
    feed(policy, 10.0, 100)
    assert {feed(policy, 19.0) for _ in range(3000)} == {10}  # settles below 20
    assert feed(policy, 21.0, 4000) >= 20
    bound = policy.bound
    assert {feed(policy, 0.6 * bound) for _ in range(4000)} == {bound}
    assert feed(policy, 0.4 * bound, 4000) <= bound / 2
    for step in range(1000):
        before = policy.bound
        after = feed(policy, 5.0 + step / 50)
        assert after == before or after >= 2 * before or after <= before / 2


def test_ringmaster_where_nothing_shows_through_the_noise() -> None:
    policy = Ringmaster("auto")
    for _ in range(100):
        policy.decide(Arrival(0, version=9, workers=4, half_dot=-1.0, half_sq=3.0))
    assert policy.bound == 64  # the ceiling
    assert policy.figures() == {"bound": 64}  # infinity is no figure


def test_patience_turns_away_what_decide_turns_away() -> None:
    for policy in (BoundedStaleness(2), Ringmaster(3), Rennala(4), BulkSynchronous()):
        assert policy.patience is not None
        assert policy.decide(Arrival(policy.patience)) == APPLY
        assert policy.decide(Arrival(policy.patience + 1)).verdict is not Verdict.APPLY


# ---- buffers ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "sizes"),
    [
        (FedBuff(10), {1: 10, 8: 10}),
        (Rennala(3), {1: 3, 8: 3}),
        (BulkSynchronous(), {1: 1, 2: 2, 8: 8}),
        (BackupWorkers(2), {1: 1, 2: 1, 3: 1, 8: 6}),
    ],
    ids=repr,
)
def test_flush_size(policy: Policy, sizes: dict[int, int]) -> None:
    assert {workers: policy.flush_size(workers) for workers in sizes} == sizes
    assert policy.buffers


@pytest.mark.parametrize(
    ("policy", "late"),
    [
        (Rennala(3), REJECT),
        (Rennala(3, "requeue"), REQUEUE),
        (BackupWorkers(1), REJECT),
        (BackupWorkers(1, "requeue"), REQUEUE),
        (BulkSynchronous(), REQUEUE),
    ],
    ids=repr,
)
def test_only_updates_of_the_current_version(policy: Policy, late: Decision) -> None:
    assert [policy.decide(Arrival(tau)) for tau in range(3)] == [APPLY, late, late]
    assert policy.rejects == (late is REJECT)


def test_who_waits_for_versions() -> None:
    assert BulkSynchronous().synchronous
    assert BackupWorkers(1).synchronous
    assert not Rennala(3).synchronous
    assert not SoftSync().synchronous


# ---- dynamic SSP ------------------------------------------------------------------


def paced(policy: DynamicStaleSynchronous, intervals: dict[int, float], until: float) -> float:
    """Run workers of these paces under the gate; return how long the fastest waited."""
    clock: dict[int, int] = dict.fromkeys(intervals, 0)
    done_at = dict(intervals)
    waited = 0.0
    waiting: dict[int, float] = {}
    for worker in clock:
        policy.answered(worker, 0, 0.0)
    while (now := min(done_at.values())) < until:
        worker = min(done_at, key=done_at.__getitem__)
        clock[worker] += 1
        done_at[worker] = math.inf
        policy.answered(worker, clock[worker], now)
        waiting[worker] = now
        slowest = min(clock.values())
        assert max(clock.values()) - slowest <= policy.upper + 1
        for other, since in list(waiting.items()):
            if clock[other] <= policy.limit(other, slowest):
                waited += now - since if other == 1 else 0.0
                done_at[other] = now + intervals[other]
                del waiting[other]
    return waited


def test_dynamic_slack_makes_the_fastest_wait_less() -> None:
    for ratio in (2.3, 3.7, 5.5):
        fixed, dynamic = (
            paced(DynamicStaleSynchronous(2, upper), {1: 1.0, 2: ratio}, 500.0) for upper in (2, 12)
        )
        assert dynamic < fixed


def test_granted_steps_by_hand() -> None:
    policy = DynamicStaleSynchronous(1, 4)
    for worker, clock, now in ((1, 0, 0.0), (2, 0, 0.0), (1, 1, 2.0), (2, 1, 5.0), (1, 2, 4.0)):
        policy.answered(worker, clock, now)
    # Worker 1 takes 2 s, worker 2 takes 5 s and pushes at 10 s, 15 s.
    policy.answered(1, 3, 6.0)  # would wait for the push at 10 s: after 2 more steps it need not
    assert policy.limit(1, 1) == 3 - 1 + 2
    assert policy.limit(2, 1) == 2
    assert policy.limit(1, 0) == 4  # never beyond the upper bound
    assert policy.limit(1, 5) == 6  # nor below the lower one
    policy.left(1)
    assert policy.limit(1, 1) == 2


def test_nothing_is_granted_to_those_who_are_not_the_fastest_or_unknown() -> None:
    policy = DynamicStaleSynchronous(0, 9)
    policy.answered(1, 3, 1.0)  # its first, no interval to predict from
    assert policy.limit(1, 3) == 3
    for worker, clock, now in ((2, 5, 1.0), (2, 6, 2.0), (1, 4, 3.0), (1, 5, 4.0)):
        policy.answered(worker, clock, now)
    assert policy.limit(1, 5) == 5


def test_equal_bounds_are_plain_ssp() -> None:
    policy = DynamicStaleSynchronous(3, 3)
    assert paced(policy, {1: 1.0, 2: 2.0}, 50.0) > 0
    assert [policy.limit(w, c) for w in (1, 2) for c in (0, 7)] == [3, 10, 3, 10]


# ---- several at once --------------------------------------------------------------


class Counting(Policy):
    """Counts what it sees."""

    needs = Needs(workers=True)

    def __init__(self) -> None:
        self._seen: list[Any] = []

    def decide(self, update: Arrival) -> Decision:
        self._seen.append(update.tau)
        return APPLY

    def answered(self, worker: int, clock: int, now: float) -> None:
        self._seen.append(("answered", worker, clock, now))

    def left(self, worker: int) -> None:
        self._seen.append(("left", worker))

    def figures(self) -> dict[str, float]:
        return {"seen": len(self._seen)}


def test_composed_asks_all_and_multiplies_weights() -> None:
    counting = Counting()
    both = Composed(
        BoundedStaleness(2, "requeue"), StalenessAware("inverse1"), FedBuff(4), counting
    )
    assert both.decide(Arrival(0)) == APPLY
    assert both.decide(Arrival(1)).weight == pytest.approx(0.5 * 2**-0.5)
    assert both.decide(Arrival(3)) == REQUEUE
    assert counting._seen == [0, 1, 3]  # also of what another turns down
    assert (both.buffers, both.flush_size(99), both.flush_after_s) == (True, 4, 5.0)
    assert (both.patience, both.rejects, both.gates, both.synchronous) == (2, False, False, False)
    assert both.figures() == {"seen": 3}
    assert both.needs == Needs(workers=True)
    both.answered(1, 2, 3.0)
    both.left(1)
    assert counting._seen[3:] == [("answered", 1, 2, 3.0), ("left", 1)]


def test_composed_the_first_objection_counts() -> None:
    assert Composed(BoundedStaleness(1), Ringmaster(1, "requeue")).decide(Arrival(2)) == REJECT
    assert Composed(BoundedStaleness(1), Ringmaster(1, "requeue")).decide(Arrival(1)) == REQUEUE


def test_composed_gates() -> None:
    both = Composed(StaleSynchronous(5), DynamicStaleSynchronous(2, 9), Asynchronous())
    assert both.limit(1, 10) == 12
    assert both.lazy_slack is None
    lazy = Composed(StaleSynchronous(5, "lazy"), StaleSynchronous(3, "lazy"), Asynchronous())
    assert lazy.lazy_slack == 3
    assert Composed(StaleSynchronous(5, "lazy"), StaleSynchronous(3)).lazy_slack is None
    assert Composed(Asynchronous()).limit(1, 3) is None
    assert Composed(BulkSynchronous(), Asynchronous()).synchronous


def test_composed_is_flat_and_fresh() -> None:
    inner = Composed(Counting(), Asynchronous())
    outer = Composed(inner, Asynchronous())
    assert len(outer.policies) == 3
    outer.decide(Arrival(0))
    assert outer.fresh().figures() == {"seen": 0}
    assert outer.fresh() == outer


@pytest.mark.parametrize(
    ("policies", "message"),
    [
        ([], "expected at least one"),
        ([Asynchronous(), "async"], "got a str; expected policies"),
        ([SoftSync(), Rennala(3)], r"SoftSync\(.*\) and Rennala\(.*\) both merge updates"),
    ],
    ids=str,
)
def test_composed_refuses(policies: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Composed(*policies)


def test_composed_state_has_its_places() -> None:
    both = Composed(Asynchronous(), RateRescaled())
    both.decide(Arrival(0, compute_s=2.0))
    assert both.state() == {"1": {"count": 1, "mean": 2.0}}
    with pytest.raises(ConfigError, match="has 2 policies; got the state of"):
        both.load_state({"2": {}})
    with pytest.raises(ConfigError, match=r"Asynchronous\(\) keeps no state"):
        both.load_state({"0": {"x": 1}})


def test_state_of_something_else_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"this is no state of RateRescaled.*expected count, mean"
    ):
        RateRescaled().load_state({"bound": 3})
    with pytest.raises(ConfigError, match="expected bound, measured, noise"):
        Ringmaster().load_state({"bound": 3})
    with pytest.raises(ConfigError, match="keeps no state"):
        Ringmaster(3).load_state({"bound": 3})


# ---- in words ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("auto", Ringmaster("auto", "requeue")),
        ("ringmaster", Ringmaster()),
        ("ringmaster:auto:requeue", Ringmaster("auto", "requeue")),
        ("ringmaster:8", Ringmaster(8)),
        ("dssp:3:15", DynamicStaleSynchronous(3, 15)),
        ("dssp:3:15:lazy", DynamicStaleSynchronous(3, 15, "lazy")),
        ("bsp", BulkSynchronous()),
        ("backup:2", BackupWorkers(2)),
        ("softsync:2:0.5", SoftSync(2, 0.5)),
        ("fedbuff:10", FedBuff(10)),
        ("rennala:16:requeue", Rennala(16, "requeue")),
        ("aware:inverse", StalenessAware("inverse")),
        ("aware:polynomial:0.3", StalenessAware("polynomial", exponent=0.3)),
        ("aware:hinge:4", StalenessAware("hinge", knee=4)),
        ("aware:hinge:4:10", StalenessAware("hinge", knee=4, slope=10.0)),
        ("rescaled", RateRescaled()),
        ("rescaled:5:2.5", RateRescaled(5, 2.5)),
        ("ssp:3+aware:inverse", Composed(StaleSynchronous(3), StalenessAware("inverse"))),
        ("ssp:3 + auto", Composed(StaleSynchronous(3), Ringmaster("auto", "requeue"))),
    ],
)
def test_in_words(text: str, policy: Policy) -> None:
    assert parse_policy(text) == policy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dssp:3", r"expected dssp:LOWER:UPPER\[:eager\|lazy\]"),
        ("dssp:3:2", "expected lower <= upper"),
        ("bsp:1", "expected bsp"),
        ("aware:linear", "weight is 'linear'; expected 'constant', .* or 'delay-adaptive'"),
        ("aware:inverse:3", "'inverse' has 0 numbers; got 1"),
        ("aware:hinge:1.5", "invalid literal"),
        ("ringmaster:0", "expected an integer >= 1"),
        ("ringmaster:none", "invalid literal"),
        ("softsync:1+fedbuff:3", "both merge updates"),
        ("ssp:3+", r"unknown staleness policy 'ssp:3\+'; expected auto, async, bounded:N"),
        ("rescaled:5:0", "cap is 0.0; expected a number > 0"),
    ],
)
def test_words_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_policy(text)


def test_as_policy() -> None:
    assert as_policy(None) == default_policy()
    assert as_policy("ssp:2") == StaleSynchronous(2)
    assert as_policy(FedBuff(3)) == FedBuff(3)
    both = Composed(StaleSynchronous(2), FedBuff(3))
    assert as_policy([StaleSynchronous(2), FedBuff(3)]) == as_policy(("ssp:2", "fedbuff:3")) == both
    for wrong in (3, [], [3], {}):
        with pytest.raises(ConfigError, match="expected a policy of zmqdist"):
            as_policy(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ringmaster(0), "threshold is 0; expected an integer >= 1"),
        (lambda: Ringmaster("most"), "threshold is 'most'; expected 'auto'"),
        (lambda: Ringmaster(True), "threshold is True"),
        (lambda: Ringmaster(3, "scale"), "on_stale is 'scale'; expected 'reject' or 'requeue'"),
        (lambda: Rennala(0), "size is 0; expected an integer >= 1"),
        (lambda: BackupWorkers(-1), "backups is -1; expected an integer >= 0"),
        (lambda: FedBuff(2, timeout_s=math.inf), "timeout_s is inf; expected seconds > 0"),
        (lambda: DynamicStaleSynchronous(4, 3), "lower is 4, upper is 3"),
        (lambda: StalenessAware("hinge", exponent=1.0), "exponent is an option of weight='polyn"),
        (lambda: StalenessAware("polynomial", knee=1), "knee is an option of weight='hinge'"),
        (lambda: StalenessAware("polynomial", exponent=0), "exponent is 0; expected a number > 0"),
        (lambda: RateRescaled(cap=-1), "cap is -1; expected a number > 0"),
    ],
)
def test_options_out_of_range(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
