"""Policies that accept an update, or turn it down, by its staleness."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from zmqdist.core.staleness import (
    APPLY,
    REJECT,
    REQUEUE,
    Arrival,
    Decision,
    Needs,
    Policy,
    Verdict,
)
from zmqdist.staleness.arguments import ON_STALE, choice, count, fields
from zmqdist.staleness.noise import NoiseScale


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
    The bound is inclusive, ``tau <= max_staleness``: `Ringmaster` with
    ``threshold = max_staleness + 1`` accepts the same updates.
    """

    def __init__(self, max_staleness: int, on_stale: str = "reject") -> None:
        self.max_staleness = count("BoundedStaleness", "max_staleness", max_staleness)
        self.on_stale = choice("BoundedStaleness", "on_stale", on_stale, (*ON_STALE, "scale"))

    @property
    def patience(self) -> int | None:
        """The bound, unless staler updates are scaled."""
        return None if self.on_stale == "scale" else self.max_staleness

    @property
    def rejects(self) -> bool:
        """Whether stale updates are dropped."""
        return self.on_stale == "reject"

    def decide(self, update: Arrival) -> Decision:
        """Apply up to the bound; beyond it do what `on_stale` says."""
        if update.tau <= self.max_staleness:
            return APPLY
        if self.on_stale == "scale":
            return Decision(Verdict.APPLY, (1 + self.max_staleness) / (1 + update.tau))
        return REQUEUE if self.on_stale == "requeue" else REJECT


CEILING = 16
"""`Ringmaster("auto")`: largest threshold, in workers. With as many updates under way as
workers the mean staleness is below one worker; hardly an update is this stale."""


class Ringmaster(Policy):
    """Apply an update while its staleness is below a threshold, chosen or measured.

    Ringmaster ASGD [1]_: apply iff ``tau < R``. The best R does not depend on how fast
    the workers are: ``R = max(1, ceil(sigma^2 / eps))``, with sigma^2 the variance of an
    update's gradient and eps the squared gradient norm aimed at. As the paper's Algorithm
    5 stops computations that have become too stale, workers here do not send such
    updates, and a gradient that asks `zmqdist.staleness.too_stale` may end early.

    Parameters
    ----------
    threshold : int or "auto", default="auto"
        R, >= 1. ``"auto"`` measures ``sigma^2 / |G|^2`` at the current gradient G, from
        gradients that come in halves (`zmqdist.in_halves`), and moves R when that has
        changed by a factor of two. Until 100 such updates have come, and for gradients
        without halves, R is ``floor(sqrt(version))``, which needs no parameter [2]_. R
        stays between a quarter of the workers and 16 times the workers.
    on_stale : {"reject", "requeue"}, default="reject"
        What becomes of a staler update: dropped as in the paper, which assumes that all
        workers draw from the same data, or computed again on a fresh model.

    Raises
    ------
    ConfigError
        If an option is outside its range.

    References
    ----------
    .. [1] A. Maranjyan, A. Tyurin, P. Richtarik, "Ringmaster ASGD: the first
       asynchronous SGD with optimal time complexity", 2025, arXiv:2501.16168.
    .. [2] The schedule of "Ringmaster LMO", 2026, arXiv:2605.18174.
    """

    needs = Needs(halves=True)

    def __init__(self, threshold: int | str = "auto", on_stale: str = "reject") -> None:
        if isinstance(threshold, str):
            choice("Ringmaster", "threshold", threshold, ("auto",))
        else:
            count("Ringmaster", "threshold", threshold, 1)
        self.threshold = threshold
        self.on_stale = choice("Ringmaster", "on_stale", on_stale, ON_STALE)
        self._bound = threshold if isinstance(threshold, int) else 1
        self._measured: int | None = None
        self._noise = NoiseScale()

    @property
    def bound(self) -> int:
        """The threshold now."""
        return self._bound

    @property
    def patience(self) -> int:
        """Largest staleness that is applied now: one less than the threshold."""
        return self._bound - 1

    @property
    def rejects(self) -> bool:
        """Whether stale updates are dropped."""
        return self.on_stale == "reject"

    def decide(self, update: Arrival) -> Decision:
        """Apply below the threshold; else do what `on_stale` says."""
        if self.threshold == "auto":
            self._adapt(update)
        if update.tau < self._bound:
            return APPLY
        return REQUEUE if self.on_stale == "requeue" else REJECT

    def _adapt(self, update: Arrival) -> None:
        if update.half_dot is not None and update.half_sq is not None:
            self._noise.add(update.half_dot, update.half_sq)
        ceiling = CEILING * update.workers
        noise = self._noise.value
        if noise is None:
            bound = math.isqrt(update.version)
        else:
            target = math.ceil(min(noise, ceiling))
            if self._measured is None or not self._measured / 2 < target < 2 * self._measured:
                self._measured = max(1, target)
            bound = self._measured
        self._bound = max(1, -(-update.workers // 4), min(bound, ceiling))

    def figures(self) -> dict[str, float]:
        """Return the bound and the measured noise scale of ``threshold="auto"``."""
        if self.threshold != "auto":
            return {}
        noise = self._noise.value
        known = {} if noise is None or math.isinf(noise) else {"noise_scale": noise}
        return {"bound": self._bound, **known}

    def state(self) -> dict[str, Any]:
        """Return the bound and what was measured."""
        if self.threshold != "auto":
            return {}
        return {"bound": self._bound, "measured": self._measured, "noise": self._noise.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on with the bound and what was measured."""
        if self.threshold != "auto" or not state:
            super().load_state(state)
            return
        self._bound, self._measured, noise = fields(self, state, "bound", "measured", "noise")
        self._noise.load_state(noise)
