"""Policies that hold fast workers back."""

from __future__ import annotations

from dataclasses import dataclass

from zmqdist.core.staleness import Needs, Policy
from zmqdist.errors import ConfigError
from zmqdist.staleness.arguments import choice, count

_REFRESH = ("eager", "lazy")


class StaleSynchronous(Policy):
    """Let a worker start step ``c`` only while ``c - slowest <= slack``.

    Clocks count settled steps of the workers that are here now; a worker that
    joins starts at the slowest clock, one that ends or dies holds nobody back. All
    updates are applied. ``slack=0`` is bulk-synchronous in time: nobody starts step
    c + 1 before everybody has finished step c. The rule is that of SSP [1]_.

    Parameters
    ----------
    slack : int
        Steps that the fastest worker may be ahead of the slowest, >= 0.
    refresh : {"eager", "lazy"}, default="eager"
        ``"eager"`` starts each step on the newest published model, as ESSP [2]_.
        ``"lazy"`` goes on with the model at hand until that lacks updates of a clock
        below ``c - slack``, as the cache of [1]_ does: less traffic, staler updates.

    Raises
    ------
    ConfigError
        If an option is outside its range.

    References
    ----------
    .. [1] Q. Ho et al., "More effective distributed ML via a stale synchronous
       parallel parameter server", NIPS 2013.
    .. [2] W. Dai, A. Kumar, J. Wei, Q. Ho, G. Gibson, E. Xing, "High-performance
       distributed ML at scale through parameter server consistency models", AAAI 2015.
    """

    def __init__(self, slack: int, refresh: str = "eager") -> None:
        self.slack = count("StaleSynchronous", "slack", slack)
        self.refresh = choice("StaleSynchronous", "refresh", refresh, _REFRESH)

    @property
    def gates(self) -> bool:
        """Always: that is what it does."""
        return True

    @property
    def lazy_slack(self) -> int | None:
        """Slack of the worker's cache with ``refresh="lazy"``, else None."""
        return self.slack if self.refresh == "lazy" else None

    def limit(self, worker: int, slowest: int) -> int:
        """Return ``slowest + slack``."""
        return slowest + self.slack


@dataclass(slots=True)
class _Pace:
    """When a worker's last two answered steps arrived, and how far it may run ahead."""

    clock: int
    last: float
    before: float | None = None
    grant: int = -1

    @property
    def interval(self) -> float | None:
        return None if self.before is None else self.last - self.before


class DynamicStaleSynchronous(Policy):
    """Let workers run ahead by a slack between two bounds, chosen by who waits for whom.

    Dynamic SSP [1]_. A worker may always be `lower` steps ahead of the slowest. When
    the fastest one reaches that, it is granted up to ``upper - lower`` further steps: so
    many that it then waits least, if it and the slowest go on at the pace of their
    last two steps. Of equal waits the fewest steps are granted. Nobody is ever more than
    `upper` steps ahead.

    Parameters
    ----------
    lower, upper : int
        Bounds of the slack, in steps; ``0 <= lower <= upper``.
    refresh : {"eager", "lazy"}, default="eager"
        As of `StaleSynchronous`; lazy reading goes by `upper`.

    Raises
    ------
    ConfigError
        If an option is outside its range.

    Notes
    -----
    What is known of the workers is not part of `state`: after a resume they join anew.

    References
    ----------
    .. [1] X. Zhao, A. An, J. Liu, B. X. Chen, "Dynamic stale synchronous parallel
       distributed training for deep learning", ICDCS 2019, arXiv:1908.11848.
    """

    needs = Needs(workers=True)

    def __init__(self, lower: int, upper: int, refresh: str = "eager") -> None:
        self.lower = count("DynamicStaleSynchronous", "lower", lower)
        self.upper = count("DynamicStaleSynchronous", "upper", upper)
        if lower > upper:
            raise ConfigError(
                f"DynamicStaleSynchronous: lower is {lower}, upper is {upper}; expected "
                "lower <= upper"
            )
        self.refresh = choice("DynamicStaleSynchronous", "refresh", refresh, _REFRESH)
        self._paces: dict[int, _Pace] = {}

    @property
    def gates(self) -> bool:
        """Always: that is what it does."""
        return True

    @property
    def lazy_slack(self) -> int | None:
        """Slack of the worker's cache with ``refresh="lazy"``, else None."""
        return self.upper if self.refresh == "lazy" else None

    def answered(self, worker: int, clock: int, now: float) -> None:
        """Note the pace of a worker; grant steps to the fastest if it is about to wait."""
        pace = self._paces.get(worker)
        if pace is None:
            pace = self._paces[worker] = _Pace(clock, now)
        elif clock > pace.clock:
            pace.clock, pace.before, pace.last = clock, pace.last, now
        slowest = min(self._paces.values(), key=lambda p: (p.clock, p.last))
        is_fastest = all(pace.clock >= other.clock for other in self._paces.values())
        if is_fastest and clock > slowest.clock + self.lower and clock > pace.grant:
            pace.grant = clock - 1 + self._steps(pace, slowest)

    def _steps(self, fast: _Pace, slow: _Pace) -> int:
        """Return how many further steps leave the fastest worker the shortest wait."""
        if not fast.interval or not slow.interval or fast.interval < 0 or slow.interval < 0:
            return 0  # nothing to predict from
        waits = []
        for steps in range(self.upper - self.lower + 1):
            ready = fast.last + steps * fast.interval
            pushes = max(1, -(-(ready - slow.last) // slow.interval))  # of the slowest, till then
            waits.append(slow.last + pushes * slow.interval - ready)
        return waits.index(min(waits))

    def left(self, worker: int) -> None:
        """Forget a worker."""
        self._paces.pop(worker, None)

    def limit(self, worker: int, slowest: int) -> int:
        """Return ``slowest + lower``, or what was granted up to ``slowest + upper``."""
        pace = self._paces.get(worker)
        grant = -1 if pace is None else min(pace.grant, slowest + self.upper)
        return max(slowest + self.lower, grant)
