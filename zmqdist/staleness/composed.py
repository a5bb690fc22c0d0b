"""Several policies as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

from zmqdist.core.staleness import APPLY, Arrival, Decision, Needs, Policy, Verdict
from zmqdist.errors import ConfigError


class Composed(Policy):
    """Several policies at once: gate, accept, weight and merge from different ones.

    * A worker starts when all let it: the lowest limit counts, the laziest reading that
      all allow, and it waits for versions if one wants that.
    * An update is applied if all apply it; else the first that does not says what
      becomes of it. Weights are multiplied. Transformations follow each other in
      the order given.
    * At most one may have a buffer.

    ``staleness=[StaleSynchronous(3), StalenessAware("inverse")]`` stands for
    ``Composed(StaleSynchronous(3), StalenessAware("inverse"))``.

    Parameters
    ----------
    *policies : Policy
        At least one. A `Composed` among them stands for its members.

    Raises
    ------
    ConfigError
        If there is none, one is no policy, or two have a buffer.
    """

    def __init__(self, *policies: Policy) -> None:
        members: list[Policy] = []
        for policy in policies:
            if not isinstance(policy, Policy):
                raise ConfigError(
                    f"Composed: got a {type(policy).__name__}; expected policies of "
                    "zmqdist.staleness"
                )
            members += policy.policies if isinstance(policy, Composed) else [policy]
        if not members:
            raise ConfigError("Composed: got no policy; expected at least one")
        with_buffer = [policy for policy in members if policy.buffers]
        if len(with_buffer) > 1:
            raise ConfigError(
                f"{with_buffer[0]!r} and {with_buffer[1]!r} both merge updates; keep one of them"
            )
        self.policies: tuple[Policy, ...] = tuple(members)
        self._buffer = with_buffer[0] if with_buffer else None
        self._transforms = [policy for policy in members if policy.transforms]
        self._needs = Needs()
        for policy in members:
            self._needs |= policy.needs

    @property
    def needs(self) -> Needs:
        """What any of them needs."""
        return self._needs

    # ---- gate -------------------------------------------------------------------------

    @property
    def gates(self) -> bool:
        """Whether one of them does."""
        return any(policy.gates for policy in self.policies)

    def limit(self, worker: int, slowest: int) -> int | None:
        """Return the lowest limit."""
        return _least(policy.limit(worker, slowest) for policy in self.policies if policy.gates)

    @property
    def lazy_slack(self) -> int | None:
        """The smallest slack, if all that hold workers back read lazily."""
        slacks = [policy.lazy_slack for policy in self.policies if policy.gates]
        return None if None in slacks else _least(slacks)

    @property
    def synchronous(self) -> bool:
        """Whether one of them is."""
        return any(policy.synchronous for policy in self.policies)

    @property
    def patience(self) -> int | None:
        """The least patience."""
        return _least(policy.patience for policy in self.policies)

    def answered(self, worker: int, clock: int, now: float) -> None:
        """Tell those that need it."""
        for policy in self.policies:
            if policy.needs.workers:
                policy.answered(worker, clock, now)

    def left(self, worker: int) -> None:
        """Tell those that need it."""
        for policy in self.policies:
            if policy.needs.workers:
                policy.left(worker)

    # ---- accept, weigh, merge ---------------------------------------------------------------

    @property
    def rejects(self) -> bool:
        """Whether one of them does."""
        return any(policy.rejects for policy in self.policies)

    def decide(self, update: Arrival) -> Decision:
        """Ask all, so that each sees each update; the first that objects decides."""
        objection = None
        weight = 1.0
        for policy in self.policies:
            decision = policy.decide(update)
            if decision.verdict is Verdict.APPLY:
                weight *= decision.weight
            elif objection is None:
                objection = decision
        if objection is not None:
            return objection
        return APPLY if weight == 1.0 else Decision(Verdict.APPLY, weight)

    @property
    def transforms(self) -> bool:
        """Whether one of them does."""
        return bool(self._transforms)

    @property
    def of_gradients(self) -> bool:
        """Whether one of them does."""
        return any(policy.of_gradients for policy in self.policies)

    def transform(self, update: Any, base: Any) -> Any:
        """Pass the update through all that transform, in order."""
        for policy in self._transforms:
            update = policy.transform(update, base)
        return update

    @property
    def buffers(self) -> bool:
        """Whether one of them does."""
        return self._buffer is not None

    def flush_size(self, workers: int) -> int:
        """Return that of the policy with the buffer."""
        return 1 if self._buffer is None else self._buffer.flush_size(workers)

    @property
    def flush_after_s(self) -> float | None:
        """That of the policy with the buffer."""
        return None if self._buffer is None else self._buffer.flush_after_s

    # ---- what they learned --------------------------------------------------------------------

    def figures(self) -> dict[str, float]:
        """Return the figures of all."""
        return {name: n for policy in self.policies for name, n in policy.figures().items()}

    def state(self) -> dict[str, Any]:
        """Return the states of all, by their place."""
        states = {str(i): policy.state() for i, policy in enumerate(self.policies)}
        return {place: state for place, state in states.items() if state}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Give each its state."""
        places = [str(i) for i in range(len(self.policies))]
        if unknown := set(state) - set(places):
            raise ConfigError(
                f"{self!r} has {len(places)} policies; got the state of {sorted(unknown)}"
            )
        for place, policy in zip(places, self.policies, strict=True):
            policy.load_state(state.get(place, {}))

    def fresh(self) -> Self:
        """Return the same with members that have learned nothing."""
        return type(self)(*(policy.fresh() for policy in self.policies))

    def __repr__(self) -> str:
        return f"Composed({', '.join(map(repr, self.policies))})"


def _least(numbers: Iterable[int | None]) -> int | None:
    return min((n for n in numbers if n is not None), default=None)
