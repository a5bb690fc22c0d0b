"""Policies that apply every update, the stale or frequent ones less."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from zmqdist.core.staleness import APPLY, Arrival, Decision, Needs, Policy, Verdict
from zmqdist.errors import ConfigError
from zmqdist.staleness.arguments import choice, count, fields, positive

_WEIGHTS: dict[str, Callable[[int, int, float, int, float], float]] = {
    "constant": lambda tau, workers, exponent, knee, slope: 1.0,
    "inverse": lambda tau, workers, exponent, knee, slope: 1 / max(1, tau),
    "inverse1": lambda tau, workers, exponent, knee, slope: 1 / (1 + tau),
    "inverse-sqrt": lambda tau, workers, exponent, knee, slope: (1 + tau) ** -0.5,
    "polynomial": lambda tau, workers, exponent, knee, slope: (1 + tau) ** -exponent,
    "hinge": lambda tau, workers, exponent, knee, slope: 1 / (1 + slope * max(0, tau - knee)),
    "delay-adaptive": lambda tau, workers, exponent, knee, slope: workers / max(workers, tau),
}


class StalenessAware(Policy):
    """Apply every update, weighed by its staleness.

    Parameters
    ----------
    weight : str, default="inverse"
        Of an update of staleness tau, with w workers here:

        ==================  ==============================================  ======
        ``"inverse"``         ``1 / tau``, and 1 for tau = 0                    [1]_
        ``"inverse1"``        ``1 / (1 + tau)``                                 [2]_
        ``"inverse-sqrt"``    ``1 / sqrt(1 + tau)``                             [3]_
        ``"polynomial"``      ``(1 + tau) ** -exponent``                        [4]_
        ``"hinge"``           1 up to `knee`, then ``1 / (1 + slope * (tau - knee))``  [4]_
        ``"delay-adaptive"``  ``w / max(w, tau)``                               [5]_
        ``"constant"``        1                                               [4]_
        ==================  ==============================================  ======

    exponent : float, optional
        Of ``"polynomial"``, > 0. Default: 0.5.
    knee : int, optional
        Of ``"hinge"``, in versions, >= 0. Default: 4.
    slope : float, optional
        Of ``"hinge"``, > 0. Default: 10.

    Raises
    ------
    ConfigError
        If an option is outside its range, or belongs to another weight.

    Notes
    -----
    [4]_ mixes models with these weights, here they multiply updates. `FedBuff` has the
    weight of [3]_ and its buffer. After the learning rate has been tuned for each, the
    weights differ less than one expects; tune it for each.

    References
    ----------
    .. [1] W. Zhang, S. Gupta, X. Lian, J. Liu, "Staleness-aware async-SGD for
       distributed deep learning", IJCAI 2016, arXiv:1511.05950.
    .. [2] J. Jiang, B. Cui, C. Zhang, L. Yu, "Heterogeneity-aware distributed parameter
       servers", SIGMOD 2017 (DynSGD).
    .. [3] J. Nguyen et al., "Federated learning with buffered asynchronous aggregation",
       AISTATS 2022, arXiv:2106.06639.
    .. [4] C. Xie, S. Koyejo, I. Gupta, "Asynchronous federated optimization", 2019,
       arXiv:1903.03934.
    .. [5] K. Mishchenko, F. Bach, M. Even, B. Woodworth, "Asynchronous SGD beats
       minibatch SGD under arbitrary delays", NeurIPS 2022, arXiv:2206.07638.
    """

    def __init__(
        self,
        weight: str = "inverse",
        exponent: float | None = None,
        knee: int | None = None,
        slope: float | None = None,
    ) -> None:
        self.weight = choice("StalenessAware", "weight", weight, _WEIGHTS)
        self.exponent, self.knee, self.slope = exponent, knee, slope
        for name, of in (("exponent", "polynomial"), ("knee", "hinge"), ("slope", "hinge")):
            if getattr(self, name) is not None and weight != of:
                raise ConfigError(
                    f"StalenessAware: {name} is an option of weight={of!r}, but the weight is "
                    f"{weight!r}; leave it out"
                )
        self._shape = (
            positive("StalenessAware", "exponent", 0.5 if exponent is None else exponent),
            count("StalenessAware", "knee", 4 if knee is None else knee),
            positive("StalenessAware", "slope", 10.0 if slope is None else slope),
        )

    def decide(self, update: Arrival) -> Decision:
        """Apply with the weight of this staleness."""
        if not update.tau:
            return APPLY
        weight = _WEIGHTS[self.weight](update.tau, update.workers, *self._shape)
        return Decision(Verdict.APPLY, weight)


class RateRescaled(Policy):
    """Apply every update, weighed by the time that its worker takes for one.

    Fast workers bring more updates, so that the model fits their partitions better than
    those of slow ones. Weights in proportion to the computation times give each worker the
    same say in the same time [1]_: a worker that takes T seconds for an update has weight
    ``T / mean``, with the mean over updates, so that the mean weight is 1.

    Parameters
    ----------
    window : int, default=20
        Updates of a worker over which its time is averaged, >= 1.
    cap : float, default=10.0
        Largest weight, so that an update of a worker that hung does not wreck the model.

    Raises
    ------
    ConfigError
        If an option is outside its range.

    Notes
    -----
    What is known of single workers is not part of `state`: after a resume they join anew.

    References
    ----------
    .. [1] A. Mahran, A. Maranjyan, P. Richtarik, "Rescaled asynchronous SGD: optimal
       distributed optimization under data and system heterogeneity", 2026,
       arXiv:2605.13434.
    """

    needs = Needs(workers=True)

    def __init__(self, window: int = 20, cap: float = 10.0) -> None:
        self.window = count("RateRescaled", "window", window, 1)
        self.cap = positive("RateRescaled", "cap", cap)
        self._times: dict[int, tuple[int, float]] = {}
        self._count = 0
        self._mean = 0.0

    def decide(self, update: Arrival) -> Decision:
        """Apply with weight ``T / mean``, at most `cap`."""
        if not update.compute_s > 0:
            return APPLY  # it does not say how long it took
        seen, time = self._times.get(update.worker, (0, 0.0))
        seen = min(seen + 1, self.window)
        time += (update.compute_s - time) / seen
        self._times[update.worker] = seen, time
        self._count = min(self._count + 1, self.window * update.workers)
        self._mean += (time - self._mean) / self._count
        return Decision(Verdict.APPLY, min(self.cap, time / self._mean))

    def left(self, worker: int) -> None:
        """Forget a worker."""
        self._times.pop(worker, None)

    def figures(self) -> dict[str, float]:
        """Return the mean computation time, in seconds."""
        return {"compute_s_mean": self._mean} if self._count else {}

    def state(self) -> dict[str, Any]:
        """Return the mean time and the count behind it."""
        return {"count": self._count, "mean": self._mean}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on with that mean."""
        if state:
            self._count, self._mean = fields(self, state, "count", "mean")
