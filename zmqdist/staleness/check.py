"""What every policy must do, as checks that anybody's policy can be held against."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import numpy as np

from zmqdist.core.staleness import Arrival, Decision, Needs, Policy, Verdict
from zmqdist.staleness.compensation import Between
from zmqdist.wire.rows import RowSparse

WORKERS = 8


def check_policy(policy: Policy) -> None:
    """Hold a policy against everything that a run or a simulation relies on.

    That it is a value and deterministic; that its decisions and limits are well formed and
    let everybody go on; that what it declares (`rejects`, `gates`, `patience`,
    `synchronous`, `buffers`, `transforms`) is so; that what it learned can be saved and
    taken up again. To be called in a test of your policy, once for each interesting choice
    of options.

    Parameters
    ----------
    policy : Policy
        Is not changed.

    Raises
    ------
    AssertionError
        It breaks a rule; the message says which, and for what input.
    """
    for check in CHECKS:
        try:
            check(policy)
        except AssertionError as error:
            raise AssertionError(f"{policy!r}, {check.__name__[1:]}: {error}") from None


def _hold(condition: object, message: str) -> None:
    if not condition:
        raise AssertionError(message)


# ---- a run without a model ----------------------------------------------------------------


def arrivals(seed: int, count: int = 300, first_worker: int = 1) -> Iterator[Arrival]:
    """Yield updates as they might arrive from some workers of different speed."""
    rng = Random(seed)  # noqa: S311 - for tests
    now = 0.0
    for version in range(count):
        worker = min(rng.randrange(WORKERS), rng.randrange(WORKERS))
        now += rng.expovariate(WORKERS)
        halves = (rng.gauss(1, 1), rng.expovariate(0.1)) if seed % 2 else (None, None)
        yield Arrival(
            tau=min(version, int(rng.expovariate(1 / WORKERS))),
            version=version,
            worker=first_worker + worker,
            workers=WORKERS,
            now=now,
            examples=rng.randrange(100),
            compute_s=rng.expovariate(1 / (1 + worker)),
            half_dot=halves[0],
            half_sq=halves[1],
        )


def play(policy: Policy, updates: Iterator[Arrival]) -> list[tuple[Any, ...]]:
    """Put updates before the policy; return all that it says."""
    said = []
    clocks: dict[int, int] = {}
    for update in updates:
        decision = policy.decide(update)
        clock = clocks[update.worker] = clocks.get(update.worker, 0) + 1
        if policy.needs.workers:
            policy.answered(update.worker, clock, update.now)
        limit = policy.limit(update.worker, min(clocks.values())) if policy.gates else None
        said.append((update, decision, limit, policy.patience))
    return said


# ---- the checks -----------------------------------------------------------------------------


def _is_a_value(policy: Policy) -> None:
    _hold(isinstance(policy, Policy), "expected a subclass of zmqdist.staleness.Policy")
    fresh = policy.fresh()
    _hold(fresh is not policy, "fresh() returns the policy itself; expected a copy")
    _hold(fresh == policy, f"fresh() returns {fresh!r}; expected an equal policy")
    copied = copy.deepcopy(policy)
    _hold(copied == policy, f"copied it is {copied!r}; expected an equal policy")
    _hold(hash(fresh) == hash(policy) == hash(copied), "equal policies have different hashes")
    _hold(isinstance(policy.needs, Needs), f"needs is {policy.needs!r}; expected Needs(...)")


def _runs_do_not_share_what_they_learn(policy: Policy) -> None:
    before = _plain(policy.state())
    play(policy.fresh(), arrivals(1))
    _hold(_plain(policy.state()) == before, "a copy's run changed the policy")
    learned = policy.fresh()
    play(learned, arrivals(1))
    new = learned.fresh()
    _hold(_plain(new.state()) == _plain(policy.fresh().state()), "fresh() keeps what was learned")


def _is_deterministic(policy: Policy) -> None:
    for seed in (1, 2):
        first, second = (play(policy.fresh(), arrivals(seed)) for _ in range(2))
        _hold(first == second, "the same updates got different answers")


def _decides(policy: Policy) -> None:
    for seed in (1, 2):
        for update, decision, _, _ in play(policy.fresh(), arrivals(seed)):
            _hold(isinstance(decision, Decision), f"decide({update}) is {decision!r}")
            verdict, weight = decision
            _hold(isinstance(verdict, Verdict), f"decide({update}) is {decision!r}")
            _hold(0 <= weight < math.inf, f"decide({update}) has the weight {weight!r}")
            if verdict is Verdict.REJECT:
                _hold(policy.rejects, f"decide({update}) rejects, but `rejects` is False")


def _takes_fresh_updates(policy: Policy) -> None:
    run = policy.fresh()
    for update in arrivals(1):
        decision = run.decide(update._replace(tau=0))
        _hold(
            decision.verdict is Verdict.APPLY,
            f"an update on the current version is turned down ({update._replace(tau=0)}): a worker "
            "could compute for ever",
        )


def _has_patience(policy: Policy) -> None:
    run = policy.fresh()
    for update in arrivals(1):
        patience = run.patience
        _hold(patience is None or patience >= 0, f"patience is {patience!r}; expected >= 0 or None")
        if patience is None:
            run.decide(update)
            continue
        stale = update._replace(tau=patience + 1)
        decision = run.decide(stale)
        later = run.patience
        _hold(
            decision.verdict is not Verdict.APPLY or later is None or later > patience,
            f"decide({stale}) applies what is staler than the patience {patience}",
        )


def _lets_the_slowest_start(policy: Policy) -> None:
    run = policy.fresh()
    said = play(run, arrivals(1))
    slack = run.lazy_slack
    _hold(slack is None or slack >= 0, f"lazy_slack is {slack!r}; expected >= 0 or None")
    workers = sorted({update.worker for update, *_ in said})
    for worker in workers:
        limits = [run.limit(worker, slowest) for slowest in range(500)]
        if not run.gates:
            _hold(set(limits) == {None}, "`gates` is False, but limit() holds workers back")
            continue
        for slowest, limit in enumerate(limits):
            _hold(
                limit is None or limit >= slowest,
                f"limit({worker}, {slowest}) is {limit}: the slowest worker cannot start",
            )
        bounds = [limit for limit in limits if limit is not None]
        _hold(bounds == sorted(bounds), f"limit({worker}, ...) falls when the slowest gets on")


def _buffers(policy: Policy) -> None:
    sizes = {workers: policy.flush_size(workers) for workers in range(1, 101)}
    for workers, size in sizes.items():
        _hold(isinstance(size, int) and size >= 1, f"flush_size({workers}) is {size!r}")
        if not policy.buffers:
            _hold(size == 1, f"`buffers` is False, but flush_size({workers}) is {size}")
        if policy.synchronous:
            _hold(
                size <= workers,
                f"flush_size({workers}) is {size}, but `synchronous` lets {workers} workers bring "
                "one update each: all would wait",
            )
    after_s = policy.flush_after_s
    _hold(after_s is None or after_s > 0, f"flush_after_s is {after_s!r}; expected > 0 or None")


def _forgets_workers(policy: Policy) -> None:
    run = policy.fresh()
    for first in (1, 101):
        play(run, arrivals(1, first_worker=first))
        for worker in range(first, first + WORKERS):
            run.left(worker)
            run.left(worker)  # one that it never heard of, or of which it was told twice


def _goes_on_from_its_state(policy: Policy) -> None:
    for seed in (1, 2):
        run = policy.fresh()
        play(run, arrivals(seed))
        for worker in range(1, 1 + WORKERS):
            run.left(worker)
        state = run.state()
        plain = _plain(state)
        taken_up = policy.fresh()
        taken_up.load_state(state)
        _hold(_plain(taken_up.state()) == plain, "state() of load_state(state()) differs")
        if policy.transforms:
            _hold(_transformed(run) == _transformed(taken_up), "transform() differs after a resume")
        later = (play(p, arrivals(seed + 2, first_worker=100)) for p in (run, taken_up))
        _hold(next(later) == next(later), "decisions differ after a resume")


def _shows_figures(policy: Policy) -> None:
    run = policy.fresh()
    for name, figure in [*run.figures().items(), *_played(run).figures().items()]:
        _hold(
            isinstance(name, str) and isinstance(figure, (int, float)) and math.isfinite(figure),
            f"figures() has {name!r}: {figure!r}; expected finite numbers",
        )


def _transforms(policy: Policy) -> None:
    if not policy.transforms:
        return
    update, base = _update(), _base(moved=True)
    kept = _plain(update)
    changed = policy.fresh().transform(update, base)
    _hold(_plain(update) == kept, "transform() changed the update in place")
    _hold(_shape(changed) == _shape(update), "transform() changed names, shapes or dtypes")
    _hold("inf" not in str(_plain(changed)) and "nan" not in str(_plain(changed)), "not finite")
    still = policy.fresh().transform(_update(), _base(moved=False))
    _hold(
        _close(_plain(still), kept),
        "transform() changes an update although the model has not moved since its base",
    )


CHECKS: list[Callable[[Policy], None]] = [
    _is_a_value,
    _runs_do_not_share_what_they_learn,
    _is_deterministic,
    _decides,
    _takes_fresh_updates,
    _has_patience,
    _lets_the_slowest_start,
    _buffers,
    _forgets_workers,
    _goes_on_from_its_state,
    _shows_figures,
    _transforms,
]


# ---- what they work on -------------------------------------------------------------------------


def _played(policy: Policy) -> Policy:
    play(policy, arrivals(1))
    return policy


def _update() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    rows = RowSparse([1, 3], rng.normal(size=(2, 3)), (5, 3))
    return {"w": rng.normal(size=(5, 3)), "rows": rows, "b": rng.normal(size=3), "words": 7}


def _base(moved: bool) -> Between:
    rng = np.random.default_rng(1)
    now = {name: rng.normal(size=shape) for name, shape in (("w", (5, 3)), ("b", 3))}
    now["rows"] = rng.normal(size=(5, 3))
    before = {name: array + rng.normal(size=array.shape) * moved for name, array in now.items()}
    return Between(now, before, dict.fromkeys(now, 0.1))


def _transformed(policy: Policy) -> Any:
    return _plain(policy.transform(_update(), _base(moved=True)))


def _plain(state: Any) -> Any:
    """Return a tree as JSON values, so that it can be compared; what is neither is refused."""
    if isinstance(state, dict):
        return {name: _plain(part) for name, part in state.items()}
    if isinstance(state, (list, tuple)):
        return [_plain(part) for part in state]
    if isinstance(state, RowSparse):
        return [state.rows.tolist(), state.values.tolist()]
    if isinstance(state, np.ndarray):
        return state.tolist()
    try:
        return json.loads(json.dumps(state, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise AssertionError(f"state() has what is neither JSON nor an array: {error}") from None


def _shape(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _shape(part) for name, part in tree.items()}
    return type(tree).__name__, getattr(tree, "shape", None), str(getattr(tree, "dtype", ""))


def _close(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_close(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_close, one, other))
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
