"""Staleness policies: which updates are applied, and who may run ahead.

The staleness of an update is ``tau = version at apply - version it was computed
on``, where the version counts applied updates and nothing else [1]_. A policy is
pure and picklable: it sees integers and answers with a `Decision`. It owns two
questions, *what becomes of this update* (`Policy.decide`) and *how far may a
worker run ahead of the slowest one* (`Policy.horizon`).

References
----------
.. [1] W. Zhang, S. Gupta, X. Lian, J. Liu, "Staleness-aware async-SGD for
   distributed deep learning", IJCAI 2016, arXiv:1511.05950.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from zmqdist.errors import ConfigError


class Verdict(StrEnum):
    """What becomes of an update."""

    APPLY = "apply"
    REJECT = "reject"
    REQUEUE = "requeue"


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict, and for `Verdict.APPLY` the factor on the update's values."""

    verdict: Verdict
    scale: float = 1.0


APPLY = Decision(Verdict.APPLY)
REJECT = Decision(Verdict.REJECT)
REQUEUE = Decision(Verdict.REQUEUE)


class Policy:
    """Base of all policies: applies everything and holds nobody back.

    Subclasses override `decide`, `horizon` or both, hold their options as
    attributes and keep no other state.
    """

    @property
    def lazy_slack(self) -> int | None:
        """Clocks that a worker's model may be old before it is read anew; None: always anew."""
        return None

    def decide(self, tau: int) -> Decision:
        """Decide on an update of staleness `tau` (count of versions, >= 0)."""
        return APPLY

    @property
    def flush_after_s(self) -> float | None:
        """Longest that an update may wait in the buffer, in seconds; None without one."""
        return None

    def flush_size(self, workers: int) -> int:
        """Return how many updates are merged into one version; 1 needs no buffer."""
        return 1

    @property
    def buffers(self) -> bool:
        """Whether updates wait to be merged."""
        return self.flush_after_s is not None

    def horizon(self, slowest: int) -> int | None:
        """Return the last clock that a worker may start, None for no bound.

        Parameters
        ----------
        slowest : int
            Smallest clock (count of settled steps) over the active workers.
        """
        return None

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({options})"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *sorted(vars(self).items())))


class Asynchronous(Policy):
    """Apply every update at once, however stale it is.

    The rule of Downpour SGD [1]_. Safe while ``learning rate x curvature x tau``
    stays small; with many workers prefer a bound.

    References
    ----------
    .. [1] J. Dean et al., "Large scale distributed deep networks", NIPS 2012.
    """


class BoundedStaleness(Policy):
    """Apply an update only while it is at most `max_staleness` versions behind.

    Parameters
    ----------
    max_staleness : int
        Largest staleness that is applied as it is, in versions, >= 0.
    on_stale : {"reject", "requeue", "scale"}, default="reject"
        What becomes of a staler update. ``"reject"`` drops it: cheap, but data on
        slow workers is lost to the model. ``"requeue"`` has the worker compute that
        batch again on a fresh model: no data is lost, work is. ``"scale"`` applies it
        multiplied by ``(1 + max_staleness) / (1 + tau)``.

    Raises
    ------
    ConfigError
        If an option is outside its range.

    Notes
    -----
    The bound is inclusive, ``tau <= max_staleness``. Ringmaster ASGD [1]_ applies
    ``tau < R``, so its threshold is ``R = max_staleness + 1``.

    References
    ----------
    .. [1] A. Maranjyan, A. Tyurin, P. Richtarik, "Ringmaster ASGD: the first
       asynchronous SGD with optimal time complexity", arXiv:2501.16168.
    """

    def __init__(self, max_staleness: int, on_stale: str = "reject") -> None:
        self.max_staleness = _count("max_staleness", max_staleness)
        if on_stale not in ("reject", "requeue", "scale"):
            raise ConfigError(
                f"BoundedStaleness: on_stale is {on_stale!r}; "
                "expected 'reject', 'requeue' or 'scale'"
            )
        self.on_stale = on_stale

    def decide(self, tau: int) -> Decision:
        """Apply up to the bound; beyond it do what `on_stale` says."""
        if tau <= self.max_staleness:
            return APPLY
        if self.on_stale == "scale":
            return Decision(Verdict.APPLY, (1 + self.max_staleness) / (1 + tau))
        return REQUEUE if self.on_stale == "requeue" else REJECT


class StaleSynchronous(Policy):
    """Let a worker start step ``c`` only while ``c - slowest <= slack``.

    Clocks count settled steps of the workers that are active now; a worker that
    joins starts at the slowest clock, one that ends or dies holds nobody back. All
    updates are applied. ``slack=0`` is bulk-synchronous in time: nobody starts step
    c + 1 before everybody has finished step c. The rule is that of SSP [1]_.

    Parameters
    ----------
    slack : int
        Steps that the fastest worker may be ahead of the slowest, >= 0.
    refresh : {"eager", "lazy"}, default="eager"
        ``"eager"`` starts each step on the newest published model. ``"lazy"`` goes on
        with the model at hand until that lacks updates of a clock below
        ``c - slack``, as the cache of [1]_ does: less traffic, staler updates.

    Raises
    ------
    ConfigError
        If an option is outside its range.

    References
    ----------
    .. [1] Q. Ho et al., "More effective distributed ML via a stale synchronous
       parallel parameter server", NIPS 2013.
    """

    def __init__(self, slack: int, refresh: str = "eager") -> None:
        self.slack = _count("slack", slack)
        if refresh not in ("eager", "lazy"):
            raise ConfigError(
                f"StaleSynchronous: refresh is {refresh!r}; expected 'eager' or 'lazy'"
            )
        self.refresh = refresh

    @property
    def lazy_slack(self) -> int | None:
        """Slack of the worker's cache with ``refresh="lazy"``, else None."""
        return self.slack if self.refresh == "lazy" else None

    def horizon(self, slowest: int) -> int:
        """Return ``slowest + slack``."""
        return slowest + self.slack


class SoftSync(Policy):
    """Merge ``workers / n`` updates into one version; nobody waits for a slow worker.

    The n-softsync protocol of [1]_: of w workers the updates of any ``max(1, floor(w / n))``
    are merged (by ``merge=``, default the mean) and applied together. ``n=1`` takes as
    many updates as there are workers, ``n >= w`` is `Asynchronous`. The version counts
    flushes, so staleness is counted in flushes too.

    Parameters
    ----------
    n : int, default=1
        Part of the workers: see above; >= 1. Not the number of workers.
    timeout_s : float, default=5.0
        Flush what is there when the oldest update has waited for this long, in seconds, so
        that workers that died hold nobody up.

    Raises
    ------
    ConfigError
        If an option is outside its range.

    References
    ----------
    .. [1] W. Zhang, S. Gupta, X. Lian, J. Liu, "Staleness-aware async-SGD for
       distributed deep learning", IJCAI 2016, arXiv:1511.05950, section 3.
    """

    def __init__(self, n: int = 1, timeout_s: float = 5.0) -> None:
        self.n = _count("n", n)
        if not n:
            raise ConfigError("SoftSync: n is 0; expected an integer >= 1")
        if not timeout_s > 0:
            raise ConfigError(f"SoftSync: timeout_s is {timeout_s!r}; expected seconds > 0")
        self.timeout_s = timeout_s

    @property
    def flush_after_s(self) -> float:
        """The time-out."""
        return self.timeout_s

    def flush_size(self, workers: int) -> int:
        """Return ``max(1, floor(workers / n))``."""
        return max(1, workers // self.n)


def default_policy() -> Policy:
    """Return the policy of ``ZmqDist(model)`` without ``staleness=``.

    ``BoundedStaleness(64, on_stale="requeue")``: with up to about 30 workers nothing
    but a straggler ever meets the bound, so the plain program applies each update
    exactly as it was computed; an update from a worker that hung or was suspended is
    computed again rather than applied long after its time, and no data is lost.
    """
    return BoundedStaleness(64, on_stale="requeue")


def parse_policy(text: str) -> Policy:
    """Read a policy from the command line's form ``name[:number[:option]]``.

    Parameters
    ----------
    text : str
        ``async``, ``bounded:8``, ``bounded:8:requeue``, ``ssp:3``, ``ssp:3:lazy`` or
        ``softsync:1``.

    Raises
    ------
    ConfigError
        If the text is none of these.
    """
    name, *options = text.split(":")
    try:
        if name == "async" and not options:
            return Asynchronous()
        if name == "bounded" and 1 <= len(options) <= 2:
            return BoundedStaleness(int(options[0]), *options[1:])
        if name == "softsync" and len(options) == 1:
            return SoftSync(int(options[0]))
        if name == "ssp" and 1 <= len(options) <= 2:
            return StaleSynchronous(int(options[0]), *options[1:])
    except ValueError as error:
        raise ConfigError(f"staleness policy {text!r}: {error}") from None
    raise ConfigError(
        f"unknown staleness policy {text!r}; expected async, bounded:N[:reject|requeue|scale], "
        "ssp:N[:eager|lazy] or softsync:N"
    )


def _count(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"{name} is {value!r}; expected an integer >= 0")
    return value
