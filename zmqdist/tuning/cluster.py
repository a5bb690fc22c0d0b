"""The machines that a simulation runs on: what computing, sending and applying cost."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from zmqdist.errors import ConfigError
from zmqdist.tuning.delays import Constant, Delay, delay_from
from zmqdist.tuning.streams import Purpose, generator

FREE = Constant(0.0)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Workers, a master, and the lines between them; all times are in virtual seconds.

    Parameters
    ----------
    workers : int
        Workers that run at the same time.
    compute : Delay or sequence of Delay
        Time of one step. Of a sequence, worker i has number ``i % len``: workers that differ
        for good.
    speed : Delay or None, default=None
        Persistent differences: each worker draws one factor from it, by which all its
        computing times are multiplied.
    start : Delay, default=Constant(0)
        When each worker joins.
    apply : Delay, default=Constant(0)
        What the master needs to decode an update, apply it and answer.
    turn_down : Delay or None, default=None
        What it needs for one that is not applied; None: nothing.
    publish : Delay, default=Constant(0)
        What it needs to copy and encode a version, or to answer a pull. The broadcast to
        all workers is then left to its network card.
    latency_s : float, default=0
        Of a message, each way, whatever its size.
    line_bytes_s : float, default=inf
        Bandwidth of each worker's own line, each way.
    master_in_bytes_s, master_out_bytes_s : float, default=inf
        Bandwidth of the master's network card, which all workers share. A version leaves
        it once for each worker, in the order of their numbers.
    update_bytes, version_bytes : int, default=0
        Size of an update and of a version, as they travel.
    fail_every, down_for : Delay or None, default=None
        Each worker works for a time drawn from the first, dies with what it computes, and
        is back after a time drawn from the second. The master notices its absence after
        the lease.

    Raises
    ------
    ConfigError
        If an option is outside its range.
    """

    workers: int
    compute: Delay | tuple[Delay, ...]
    speed: Delay | None = None
    start: Delay = FREE
    apply: Delay = FREE
    turn_down: Delay | None = None
    publish: Delay = FREE
    latency_s: float = 0.0
    line_bytes_s: float = math.inf
    master_in_bytes_s: float = math.inf
    master_out_bytes_s: float = math.inf
    update_bytes: int = 0
    version_bytes: int = 0
    fail_every: Delay | None = None
    down_for: Delay | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.workers, int) or self.workers < 1:
            raise ConfigError(f"workers is {self.workers!r}; expected an integer >= 1")
        if not isinstance(self.compute, Delay):
            object.__setattr__(self, "compute", tuple(self.compute))
            if not self.compute or not all(isinstance(d, Delay) for d in self.compute):
                raise ConfigError("compute needs a Delay, or at least one for some of the workers")
        for entry in ("latency_s", "update_bytes", "version_bytes"):
            if not 0 <= getattr(self, entry) < math.inf:
                raise ConfigError(f"{entry} is {getattr(self, entry)!r}; expected a number >= 0")
        for entry in ("line_bytes_s", "master_in_bytes_s", "master_out_bytes_s"):
            if not getattr(self, entry) > 0:
                raise ConfigError(f"{entry} is {getattr(self, entry)!r}; expected bytes/s > 0")
        if (self.fail_every is None) != (self.down_for is None):
            raise ConfigError("fail_every and down_for belong together: give both or none")

    def compute_of(self, worker: int) -> Delay:
        """Return the delay model of a worker."""
        if isinstance(self.compute, Delay):
            return self.compute
        return self.compute[worker % len(self.compute)]

    def speed_of(self, worker: int, seed: int) -> float:
        """Return the factor on all computing times of a worker."""
        return _once(self.speed or Constant(1.0), seed, worker, Purpose.SPEED)

    def starts_s(self, worker: int, seed: int) -> float:
        """Return when a worker joins, in seconds."""
        return _once(self.start, seed, worker, Purpose.START)

    def with_workers(self, workers: int) -> Cluster:
        """Return the same cluster with another number of workers."""
        return replace(self, workers=workers)

    def as_dict(self) -> dict[str, Any]:
        """Return the options that differ from their defaults, as JSON and TOML hold them."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        defaults = {f.name: f.default for f in fields(self)}
        return {k: _plain(v) for k, v in given.items() if v != defaults[k]}

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> Cluster:
        """Build a cluster from what `as_dict` returned; a number stands for a constant delay.

        Raises
        ------
        ConfigError
            Options that are missing, unknown or outside their range.
        """
        known = {f.name for f in fields(cls)}
        if unknown := sorted(options.keys() - known):
            raise ConfigError(f"cluster: unknown {', '.join(unknown)}; expected {sorted(known)}")
        if missing := sorted({"workers", "compute"} - options.keys()):
            raise ConfigError(f"cluster: {', '.join(missing)} missing")
        delays = {f.name for f in fields(cls) if "Delay" in str(f.type)}
        built = {k: _delays(v) if k in delays else v for k, v in options.items()}
        return cls(**built)

    def save(self, path: str | Path) -> None:
        """Write the cluster as JSON."""
        Path(path).write_text(json.dumps(self.as_dict(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Cluster:
        """Read what `save` wrote.

        Raises
        ------
        ConfigError
            The file is no such JSON.
        """
        try:
            options = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: {error}; expected what Cluster.save wrote") from None
        return cls.from_dict(options)


def _once(delay: Delay, seed: int, worker: int, purpose: Purpose) -> float:
    if isinstance(delay, Constant):
        return delay.seconds  # a generator for each of thousands of workers takes a while
    return float(delay.draw(generator(seed, worker, purpose), 1)[0])


def _plain(value: Any) -> Any:
    if isinstance(value, Delay):
        return value.as_dict()
    return [delay.as_dict() for delay in value] if isinstance(value, tuple) else value


def _delays(value: Any) -> Any:
    return tuple(map(delay_from, value)) if isinstance(value, list | tuple) else delay_from(value)
