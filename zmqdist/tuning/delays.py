"""How long things take: distributions of times, each drawn from a generator of its own.

A `Delay` is a frozen description; `Delay.stream` draws from it, one time after another.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from zmqdist.errors import ConfigError

Times = NDArray[np.float64]

_BLOCKS = (16, 1024)
"""Draws made at once: first few, so that thousands of workers cost little, then many."""


class Delay(ABC):
    """Base of all delay models. Subclasses are frozen dataclasses, so they compare and print."""

    name: ClassVar[str]

    @abstractmethod
    def draw(self, rng: np.random.Generator, n: int) -> Times:
        """Draw `n` independent times in seconds."""

    @property
    @abstractmethod
    def mean(self) -> float:
        """Expected time, in seconds; may be infinite."""

    def stream(self, rng: np.random.Generator) -> Iterator[float]:
        """Draw times one after another, without end."""
        size, most = _BLOCKS
        while True:
            yield from self.draw(rng, size).tolist()
            size = min(2 * size, most)

    def as_dict(self) -> dict[str, Any]:
        """Return the options with the model's ``name``, as JSON and TOML hold them."""
        options = {entry.name: getattr(self, entry.name) for entry in fields(self)}  # type: ignore[arg-type]
        nested = {k: v.as_dict() if isinstance(v, Delay) else v for k, v in options.items()}
        return {"name": self.name, **nested}


@dataclass(frozen=True)
class Constant(Delay):
    """Always the same time."""

    name: ClassVar[str] = "constant"
    seconds: float

    def __post_init__(self) -> None:
        _check(self, "seconds", zero=True)

    def draw(self, rng: np.random.Generator, n: int) -> Times:
        """Return `n` times the same."""
        return np.full(n, self.seconds)

    @property
    def mean(self) -> float:
        """The time."""
        return self.seconds


@dataclass(frozen=True)
class Exponential(Delay):
    """Memoryless, after a least time of `shift_s`.

    Parameters
    ----------
    mean_s : float
        Mean of the exponential part, in seconds.
    shift_s : float, default=0
        Added to each time: what a step takes at least.
    """

    name: ClassVar[str] = "exponential"
    mean_s: float
    shift_s: float = 0.0

    def __post_init__(self) -> None:
        _check(self, "mean_s")
        _check(self, "shift_s", zero=True)

    def draw(self, rng: np.random.Generator, n: int) -> Times:
        """Draw ``shift_s + Exp(mean_s)``."""
        return self.shift_s + rng.exponential(self.mean_s, n)

    @property
    def mean(self) -> float:
        """Sum of both parts."""
        return self.shift_s + self.mean_s


@dataclass(frozen=True)
class Lognormal(Delay):
    """``shift_s + median_s * exp(sigma * N(0, 1))``: many small disturbances multiplied."""

    name: ClassVar[str] = "lognormal"
    median_s: float
    sigma: float
    shift_s: float = 0.0

    def __post_init__(self) -> None:
        _check(self, "median_s", "sigma")
        _check(self, "shift_s", zero=True)

    def draw(self, rng: np.random.Generator, n: int) -> Times:
        """Draw from the lognormal distribution."""
        return self.shift_s + rng.lognormal(math.log(self.median_s), self.sigma, n)

    @property
    def mean(self) -> float:
        """``shift_s + median_s * exp(sigma**2 / 2)``."""
        return float(self.shift_s + self.median_s * math.exp(self.sigma**2 / 2))


@dataclass(frozen=True)
class Gamma(Delay):
    """Gamma distributed: like a sum of `shape` exponential parts."""

    name: ClassVar[str] = "gamma"
    shape: float
    mean_s: float
    shift_s: float = 0.0

    def __post_init__(self) -> None:
        _check(self, "shape", "mean_s")
        _check(self, "shift_s", zero=True)

    def draw(self, rng: np.random.Generator, n: int) -> Times:
        """Draw from the gamma distribution."""
        return self.shift_s + rng.gamma(self.shape, self.mean_s / self.shape, n)

    @property
    def mean(self) -> float:
        """Sum of both parts."""
        return self.shift_s + self.mean_s


@dataclass(frozen=True)
class Weibull(Delay):
    """Weibull distributed; a `shape` below 1 gives stretched-exponential tails."""

    name: ClassVar[str] = "weibull"
    shape: float
    scale_s: float
    shift_s: float = 0.0

    def __post_init__(self) -> None:
        _check(self, "shape", "scale_s")
        _check(self, "shift_s", zero=True)

    def draw(self, rng: np.random.Generator, n: int) -> Times:
        """Draw from the Weibull distribution."""
        return self.shift_s + self.scale_s * rng.weibull(self.shape, n)

    @property
    def mean(self) -> float:
        """``shift_s + scale_s * gamma(1 + 1 / shape)``."""
        return self.shift_s + self.scale_s * math.gamma(1 + 1 / self.shape)


@dataclass(frozen=True)
class Pareto(Delay):
    """Power-law tail ``P(T > t) = (minimum_s / t)**alpha``, cut off at `maximum_s`.

    Parameters
    ----------
    alpha : float
        Tail index; without a cut the mean is finite above 1, the variance above 2.
    minimum_s, maximum_s : float
        Range, in seconds. Times beyond the maximum are not clipped to it: the distribution
        is that of times below it.
    """

    name: ClassVar[str] = "pareto"
    alpha: float
    minimum_s: float
    maximum_s: float = math.inf

    def __post_init__(self) -> None:
        _check(self, "alpha", "minimum_s")
        if not self.maximum_s > self.minimum_s:
            raise ConfigError(
                f"pareto: maximum_s is {self.maximum_s!r}; expected more than "
                f"minimum_s={self.minimum_s!r}"
            )

    @property
    def _below(self) -> float:
        """Probability that the untruncated time is below the maximum."""
        return float(1 - (self.minimum_s / self.maximum_s) ** self.alpha)

    def draw(self, rng: np.random.Generator, n: int) -> Times:
        """Draw by inverting the distribution function."""
        return np.asarray(self.minimum_s * (1 - rng.random(n) * self._below) ** (-1 / self.alpha))

    @property
    def mean(self) -> float:
        """Expected time; infinite for ``alpha <= 1`` without a cut."""
        a, low, high = self.alpha, self.minimum_s, self.maximum_s
        if math.isinf(high):
            return a * low / (a - 1) if a > 1 else math.inf
        if a == 1:
            return low * math.log(high / low) / self._below
        return float(a / (a - 1) * (low - high * (low / high) ** a) / self._below)


@dataclass(frozen=True)
class Straggler(Delay):
    """Times of `base`, some of them `factor` times as long.

    Parameters
    ----------
    base : Delay
    probability : float
        Part of the steps that straggle, in [0, 1).
    factor : float
        How much longer they take.
    run_steps : float, default=1
        Mean number of steps that a worker straggles in a row. With 1 steps straggle
        independently of each other, else by an on-off Markov chain that begins in its
        stationary state.
    """

    name: ClassVar[str] = "straggler"
    base: Delay
    probability: float
    factor: float
    run_steps: float = 1.0

    def __post_init__(self) -> None:
        _check(self, "factor")
        if not 0 <= self.probability < 1:
            raise ConfigError(f"straggler: probability is {self.probability!r}; expected [0, 1)")
        if not self.run_steps >= 1:
            raise ConfigError(f"straggler: run_steps is {self.run_steps!r}; expected >= 1")
        if self.run_steps > 1 and self.probability / (1 - self.probability) > self.run_steps:
            raise ConfigError(
                f"straggler: runs of {self.run_steps} steps cannot make up {self.probability:.0%} "
                "of the steps; raise run_steps or lower probability"
            )

    def draw(self, rng: np.random.Generator, n: int) -> Times:
        """Draw independent times: whether each straggles is drawn anew."""
        times = self.base.draw(rng, n)
        return np.where(rng.random(n) < self.probability, self.factor * times, times)

    def stream(self, rng: np.random.Generator) -> Iterator[float]:
        """Draw times in order, straggling in runs."""
        if self.run_steps == 1:
            yield from super().stream(rng)
        switch, times = rng.spawn(2)
        leave = 1 / self.run_steps
        enter = leave * self.probability / (1 - self.probability)
        slow = bool(switch.random() < self.probability)
        for time_s in self.base.stream(times):
            yield self.factor * time_s if slow else time_s
            slow = bool(switch.random() < (1 - leave if slow else enter))

    @property
    def mean(self) -> float:
        """Mean over straggling and other steps."""
        return self.base.mean * (1 + self.probability * (self.factor - 1))


@dataclass(frozen=True)
class Replay(Delay):
    """Recorded times: in blocks of neighbours, so that slow spells stay together, or as they were.

    Parameters
    ----------
    times_s : tuple of float
        What was measured, in the order in which it happened.
    block : int, default=1
        Length of a block. The stream is the circular block bootstrap [1]_: blocks begin
        anywhere and go on at the beginning when they reach the end.
    in_order : bool, default=False
        No bootstrap and no blocks: what was measured, from the first, again and again.

    References
    ----------
    .. [1] D. N. Politis, J. P. Romano, "A circular block-resampling procedure for stationary
       data", in: Exploring the Limits of Bootstrap, Wiley 1992.
    """

    name: ClassVar[str] = "replay"
    times_s: tuple[float, ...]
    block: int = 1
    in_order: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "times_s", tuple(float(time_s) for time_s in self.times_s))
        if not self.times_s or not all(t >= 0 and math.isfinite(t) for t in self.times_s):
            raise ConfigError("replay: times_s needs at least one time, all finite and >= 0")
        if not 1 <= self.block <= len(self.times_s):
            raise ConfigError(
                f"replay: block is {self.block!r}; expected 1 to {len(self.times_s)}, the number "
                "of times"
            )
        if self.in_order and self.block > 1:
            raise ConfigError(f"replay: block is {self.block}; in_order knows no blocks")

    def draw(self, rng: np.random.Generator, n: int) -> Times:
        """Draw `n` times, block by block; in order, the first `n`."""
        if self.in_order:
            return np.resize(np.asarray(self.times_s), n)
        starts = rng.integers(len(self.times_s), size=-(-n // self.block))
        places = (starts[:, None] + np.arange(self.block)).ravel()[:n]
        return np.take(np.asarray(self.times_s), places, mode="wrap")

    def stream(self, rng: np.random.Generator) -> Iterator[float]:
        """Draw whole blocks, without end."""
        if self.in_order:
            yield from itertools.cycle(self.times_s)
        while True:
            yield from self.draw(rng, self.block * max(1, 64 // self.block)).tolist()

    @property
    def mean(self) -> float:
        """Mean of the recorded times."""
        return math.fsum(self.times_s) / len(self.times_s)


MODELS: dict[str, type[Delay]] = {
    cls.name: cls
    for cls in (Constant, Exponential, Lognormal, Gamma, Weibull, Pareto, Straggler, Replay)
}


def delay_from(options: Mapping[str, Any] | float) -> Delay:
    """Build a delay model from what `Delay.as_dict` returned; a number is a constant.

    Raises
    ------
    ConfigError
        An unknown model, or options that it does not take.
    """
    if isinstance(options, int | float):
        return Constant(float(options))
    kind = MODELS.get(str(options.get("name")))
    if kind is None:
        raise ConfigError(
            f"delay model {options.get('name')!r} is unknown; expected one of {', '.join(MODELS)}"
        )
    known = {entry.name for entry in fields(kind)}  # type: ignore[arg-type]
    given = {key: value for key, value in options.items() if key != "name"}
    if unknown := sorted(given.keys() - known):
        raise ConfigError(f"{kind.name}: unknown {', '.join(unknown)}; expected {sorted(known)}")
    if "base" in given:
        given["base"] = delay_from(given["base"])
    try:
        return kind(**given)
    except TypeError as error:
        raise ConfigError(f"{kind.name}: {error}") from None


def _check(delay: Delay, *names: str, zero: bool = False) -> None:
    for name in names:
        value = getattr(delay, name)
        valid = isinstance(value, int | float) and not isinstance(value, bool)
        if not valid or not math.isfinite(value) or value < 0 or (value == 0 and not zero):
            raise ConfigError(
                f"{delay.name}: {name} is {value!r}; expected a number {'>=' if zero else '>'} 0"
            )
