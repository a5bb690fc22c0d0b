"""The options of a master and of one `train()`, checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zmqdist.assignment import REPLICAS
from zmqdist.core.pacing import Pacing
from zmqdist.core.staleness import Policy
from zmqdist.errors import ConfigError
from zmqdist.merge import Merge, RowTrustRegion, Sum
from zmqdist.models.tiers import Tiers
from zmqdist.net.address import parse_address
from zmqdist.net.security import MasterKeys
from zmqdist.staleness.forms import default_policy
from zmqdist.task import Gradient
from zmqdist.wire.codec import CODECS
from zmqdist.wire.lossy import parse_codec

Callback = Callable[[dict[str, Any]], object]
Evaluate = Callable[[Any], Any]
StopWhen = Callable[[dict[str, float]], object]

Descent = Callable[[Any, Any], object]


@dataclass(frozen=True)
class MasterOptions:
    """Options of a master; `zmqdist.api.ZmqDist` describes them."""

    bind_host: str = "127.0.0.1"
    advertise_host: str = "127.0.0.1"
    port: int = 0
    publish_port: int = 0
    keys: MasterKeys | None = field(default=None, repr=False)
    policy: Policy = field(default_factory=default_policy)
    merge: Merge | None = None
    codec: str = "auto"
    lease_s: float = 30.0
    publish_every: int | None = None
    publish_interval_s: float | None = None
    publish_bytes_per_s: float | None = None
    max_norm: float | None = None
    checkpoint: str | Path | None = None
    checkpoint_every_s: float = 60.0
    resume: bool | str = False
    record: str | Path | None = None

    def __post_init__(self) -> None:
        for name in ("port", "publish_port"):
            number = getattr(self, name)
            if not isinstance(number, int) or not 0 <= number < 65536:
                raise ConfigError(f"{name} is {number!r}; expected an integer from 0 to 65535")
        if self.codec not in CODECS:
            raise ConfigError(f"codec is {self.codec!r}; expected one of {', '.join(CODECS)}")
        if not isinstance(self.policy, Policy):
            raise ConfigError(
                f"staleness is a {type(self.policy).__name__}; expected a policy of "
                "zmqdist.staleness, such as BoundedStaleness(8)"
            )
        self.policy.fresh()  # one that cannot be made anew is an error here, not of the master
        if self.merge is not None and not isinstance(self.merge, Merge):
            raise ConfigError(
                f"merge is a {type(self.merge).__name__}; expected a rule of zmqdist.merge, such "
                "as RowTrustRegion(2.0)"
            )
        # Mean and others are kinds of Sum, which alone means what one by one means
        one_by_one = type(self.merge) in (type(None), Sum, RowTrustRegion)
        if not one_by_one and not self.policy.buffers:
            raise ConfigError(
                f"merge={self.merge!r} merges several updates, but {self.policy!r} applies them "
                "one by one; use staleness=SoftSync(n), or merge=RowTrustRegion(cap)"
            )
        if self.resume not in (True, False, "auto"):
            raise ConfigError(f"resume is {self.resume!r}; expected True, False or 'auto'")
        if self.resume and self.checkpoint is None:
            raise ConfigError("resume= needs checkpoint=DIR: where to go on from")
        every_s = self.checkpoint_every_s
        if isinstance(every_s, bool) or not isinstance(every_s, int | float) or not every_s > 0:
            raise ConfigError(f"checkpoint_every_s is {every_s!r}; expected seconds > 0")
        if not self.lease_s > 0:
            raise ConfigError(f"lease_s is {self.lease_s!r}; expected seconds > 0")
        if self.max_norm is not None and not self.max_norm > 0:
            raise ConfigError(f"max_norm is {self.max_norm!r}; expected a number > 0, or None")
        self.pacing()

    def check_descent(self, descent: Descent | None) -> None:
        """Refuse a policy for gradients where updates are added as they are."""
        if descent is None and self.policy.of_gradients:
            raise ConfigError(
                f"{self.policy!r} takes updates for gradients, but without a descent they are "
                "added to the model as they are; give a descent, or say what learning rate the "
                "updates have, as DelayCompensated(lr=...)"
            )

    def about(self) -> dict[str, Any]:
        """Return what a record says of a run at its beginning."""
        return {
            "policy": repr(self.policy),
            "merge": repr(self.merge),
            "publish_every": self.publish_every,
            "publish_interval_s": self.publish_interval_s,
            "publish_bytes_per_s": self.publish_bytes_per_s,
        }

    def pacing(self) -> Pacing:
        """Return a new pacing by these options."""
        return Pacing(self.publish_every, self.publish_interval_s, self.publish_bytes_per_s)


def check_place(
    master: str | None,
    keys: object,
    checkpoint: object,
    record: object,
    publish_bytes_per_s: object,
) -> None:
    """Refuse options for a master started here if `master` is elsewhere, and the reverse.

    Raises
    ------
    ConfigError
    """
    if master is not None:
        parse_address(master)
    elif keys is not None:
        raise ConfigError("keys= is the key file for master=; one started here makes its own")
    here = {
        "checkpoint": checkpoint,
        "record": record,
        "publish_bytes_per_s": publish_bytes_per_s,
    }
    for name, value in here.items():
        if value is not None and master is not None:
            raise ConfigError(
                f"{name}= is for a master started here; start zmqdist-master with "
                f"--{name.replace('_', '-')}"
            )


def check_links(security: str, max_in_flight: int, replica: str) -> None:
    """Refuse what `zmqdist.api.ZmqDist` cannot give its workers.

    Raises
    ------
    ConfigError
    """
    if security not in ("curve", "none"):
        raise ConfigError(f"security is {security!r}; expected 'curve' or 'none'")
    if not isinstance(max_in_flight, int) or max_in_flight < 1:
        raise ConfigError(f"max_in_flight is {max_in_flight!r}; expected an integer >= 1")
    if replica not in REPLICAS:
        raise ConfigError(f"replica is {replica!r}; expected one of {', '.join(REPLICAS)}")


@dataclass(frozen=True)
class TrainOptions:
    """Options of one `train()`; `zmqdist.api.ZmqDist.train` describes them."""

    gradient: Gradient
    epochs: int
    batch_size: int | None
    tiers: Tiers | None
    evaluate: Evaluate | None
    evaluate_every_s: float | None
    stop_when: StopWhen | None
    callbacks: tuple[Callback, ...]
    max_updates: int | None
    timeout_s: float | None
    max_in_flight: int
    replica: str
    codec: str
    progress: bool | str | None
    where: str
    program: str = ""
    train: int = 0
    resume: bool = False

    def replica_among(self, workers: int) -> str:
        """Return `replica` for so many workers: one alone has nobody to share with."""
        return "private" if self.replica == "auto" and workers == 1 else self.replica

    @property
    def steps(self) -> str:
        """How the data is cut into steps: what a resumed `train()` must not change."""
        if self.tiers is not None:
            return repr(self.tiers)
        return f"batch_size={self.batch_size}" if self.batch_size else ""

    def __post_init__(self) -> None:
        if not callable(self.gradient):
            raise ConfigError(f"gradient is {self.gradient!r:.80}; expected a function")
        for name in ("epochs", "batch_size", "max_updates"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ConfigError(f"{name} is {value!r}; expected an integer >= 1")
        if self.tiers is not None and self.batch_size is not None:
            raise ConfigError(
                "give tiers= or batch_size=, not both: with tiers the gradient yields"
            )
        if self.tiers is not None and parse_codec(self.codec)[1] is not None:
            raise ConfigError(
                f"codec={self.codec!r} rounds updates of their own; with tiers=, "
                "Tiers(keep_bits=) does"
            )
        for name in ("evaluate", "stop_when"):
            function = getattr(self, name)
            if function is not None and not callable(function):
                raise ConfigError(f"{name} is {function!r:.80}; expected a function")
        for name in ("evaluate_every_s", "stop_when"):
            if self.evaluate is None and getattr(self, name) is not None:
                raise ConfigError(f"{name}= is for evaluate=, which is not given")
        for name in ("evaluate_every_s", "timeout_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} is {value!r}; expected seconds > 0")
