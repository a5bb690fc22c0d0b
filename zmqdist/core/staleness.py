"""What a staleness policy is: who may start, what becomes of an update, how much it counts.

The staleness of an update is ``tau = version at apply - version it was computed
on``, where the version counts applied updates and nothing else [1]_; updates that are
merged advance it by one together, rejected ones leave it alone. `zmqdist.staleness`
has the policies, this module what they have in common.

A policy is asked up to four questions, and costs nothing where it has no opinion:

* **gate**: who may start a step, and on which model (`Policy.limit`,
  `Policy.lazy_slack`, `Policy.synchronous`), and when is a computation not worth
  finishing any more (`Policy.patience`)?
* **accept**: is this update applied, rejected or computed again (`Policy.decide`)?
* **weight**: how much does it count (`Policy.decide` again, and `Policy.transform` for
  rules that look at the values)?
* **merge**: how many updates become one version (`Policy.buffers` and what follows it)?

References
----------
.. [1] W. Zhang, S. Gupta, X. Lian, J. Liu, "Staleness-aware async-SGD for
   distributed deep learning", IJCAI 2016, arXiv:1511.05950.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, Self

from zmqdist.errors import ConfigError


class Verdict(StrEnum):
    """What becomes of an update."""

    APPLY = "apply"
    REJECT = "reject"
    REQUEUE = "requeue"


class Decision(NamedTuple):
    """A verdict, and for `Verdict.APPLY` the factor on the update's values."""

    verdict: Verdict
    weight: float = 1.0


APPLY = Decision(Verdict.APPLY)
REJECT = Decision(Verdict.REJECT)
REQUEUE = Decision(Verdict.REQUEUE)


class Arrival(NamedTuple):
    """An update as a policy sees it: facts from its message, no values.

    Attributes
    ----------
    tau : int
        Its staleness now, in versions, >= 0.
    version : int
        The model's version now.
    worker : int
        Number of the worker that computed it: the same for all its updates, used for
        nobody else after it has left.
    workers : int
        How many workers are here, this one included.
    now : float
        Clock reading, in seconds: of the master's clock, or virtual time.
    examples : int
        What the update was computed from.
    compute_s : float
        Time that its computation took, in seconds; 0 if the worker does not say.
    half_dot, half_sq : float or None
        For an update that is the mean of two halves g1, g2 of a batch: ``g1 . g2`` and
        ``||g1 - g2||^2 / 4``. None if the gradient does not give them.
    """

    tau: int
    version: int = 0
    worker: int = 0
    workers: int = 1
    now: float = 0.0
    examples: int = 0
    compute_s: float = 0.0
    half_dot: float | None = None
    half_sq: float | None = None


@dataclass(frozen=True, slots=True)
class Needs:
    """What a policy needs that costs something to keep.

    Attributes
    ----------
    base : bool
        The master's memory of the versions that workers compute on, for `transform`.
    workers : bool
        To be told when a worker's step was answered and when a worker left
        (`Policy.answered`, `Policy.left`).
    halves : bool
        `half_dot` and `half_sq` of the updates; without them it does what it can.
    """

    base: bool = False
    workers: bool = False
    halves: bool = False

    def __or__(self, other: Needs) -> Needs:
        return Needs(
            self.base or other.base, self.workers or other.workers, self.halves or other.halves
        )


NOTHING = Needs()


class Policy:
    """Base of all policies: applies everything at once and holds nobody back.

    A policy is pure: it sees numbers, has no clock and no random source, and the same
    calls give the same answers, in a run and in a simulation. Its options are the
    parameters of its constructor, kept as attributes of the same names, so that policies
    are values: equal ones are interchangeable, and `repr` is how to make one.

    A policy that learns keeps what it learned in attributes that begin with an
    underscore, gives it out by `state` and takes it back by `load_state`. A run works on
    a copy of its own (`fresh`), so that one policy object serves any number of runs.

    `zmqdist.staleness.check_policy` holds a policy against all of this.
    """

    @property
    def needs(self) -> Needs:
        """What has to be kept for it."""
        return NOTHING

    # ---- gate -------------------------------------------------------------------------

    @property
    def gates(self) -> bool:
        """Whether `limit` may hold workers back; if not it is never asked."""
        return False

    def limit(self, worker: int, slowest: int) -> int | None:
        """Return the last clock that a worker may start, None for no bound.

        Parameters
        ----------
        worker : int
            As `Arrival.worker`.
        slowest : int
            Smallest clock (count of answered steps) over the workers that are here.
        """
        return None

    @property
    def lazy_slack(self) -> int | None:
        """Clocks that a worker's model may be old before it is read anew; None: always anew."""
        return None

    @property
    def synchronous(self) -> bool:
        """Whether a worker gives one update to a version and then waits for the next."""
        return False

    @property
    def patience(self) -> int | None:
        """Staleness beyond which no update is applied now; None without such a bound.

        A worker whose computation is older than this by what it has heard may give it
        up: its update would be turned down.
        """
        return None

    def answered(self, worker: int, clock: int, now: float) -> None:
        """Take note that a worker's step was answered (with `Needs.workers` only).

        Parameters
        ----------
        worker : int
        clock : int
            Its count of answered steps now.
        now : float
            When the step arrived, in seconds.
        """

    def left(self, worker: int) -> None:
        """Take note that a worker is gone (with `Needs.workers` only)."""

    # ---- accept and weigh -----------------------------------------------------------------

    @property
    def rejects(self) -> bool:
        """Whether `decide` may reject an update for good, so that its data is lost."""
        return False

    def decide(self, update: Arrival) -> Decision:
        """Decide on an update. Called once for each that arrives, in order."""
        return APPLY

    @property
    def transforms(self) -> bool:
        """Whether `transform` changes updates; if not it is never called."""
        return False

    @property
    def of_gradients(self) -> bool:
        """Whether it takes updates for gradients, which a `descent` turns into steps."""
        return False

    def transform(self, update: Any, base: Any) -> Any:
        """Return what is applied in place of an update that was accepted.

        Parameters
        ----------
        update : tree
            Not to be changed in place.
        base : zmqdist.staleness.Base
            How the model has moved since the version that the update was computed on.
        """
        return update

    # ---- merge ------------------------------------------------------------------------------

    @property
    def buffers(self) -> bool:
        """Whether accepted updates wait in a buffer and are merged into one version."""
        return False

    def flush_size(self, workers: int) -> int:
        """Return how many updates are merged into one version, with so many workers here."""
        return 1

    @property
    def flush_after_s(self) -> float | None:
        """Longest that an update may wait in the buffer, in seconds; None for no bound."""
        return None

    # ---- what it learned ------------------------------------------------------------------------

    def figures(self) -> dict[str, float]:
        """Return finite numbers that show what the policy does by itself, by name."""
        return {}

    def state(self) -> dict[str, Any]:
        """Return what was learned: JSON values and numpy arrays, by name."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` of an equal policy returned.

        Raises
        ------
        ConfigError
            It is no state of this kind of policy.
        """
        if state:
            raise ConfigError(f"{self!r} keeps no state; got {', '.join(map(repr, state))}")

    # ---- a value ----------------------------------------------------------------------

    def options(self) -> dict[str, Any]:
        """Return the parameters of the constructor."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def fresh(self) -> Self:
        """Return an equal policy that has learned nothing.

        Raises
        ------
        ConfigError
            Its class cannot be made from its `options`.
        """
        try:
            return type(self)(**self.options())
        except TypeError as error:
            raise ConfigError(
                f"{self!r} cannot be made anew: {error}; keep the constructor's parameters as "
                "attributes of the same names, and let all others begin with an underscore"
            ) from None

    def unfit_in_place(self) -> str:
        """Return why workers that train in place cannot have this policy, "" if they can."""
        if self.buffers or self.synchronous:
            what = "makes versions of several updates, which workers wait for"
        elif self.transforms:
            what = "changes updates, whose workers would not know of it"
        elif self.rejects:
            what = "drops updates, and with them what their workers have learned"
        else:
            return ""
        return (
            f"tiers= does not go with {self!r}, which {what}; use Asynchronous(), a bound with "
            "on_stale='requeue', or StaleSynchronous(slack)"
        )

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options().items())
        return f"{type(self).__name__}({options})"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Policy)
            and type(self) is type(other)
            and self.options() == other.options()
        )

    def __hash__(self) -> int:
        return hash((type(self), *sorted(self.options().items())))
