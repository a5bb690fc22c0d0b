"""The options of a master and of one `train()`, checked."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
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
class Kind:
    """What an option has to be: a description for people, and a test."""

    description: str
    fits: Callable[[Any], bool]

    def or_none(self) -> Kind:
        """Return the kind of an option that need not be given."""
        return Kind(f"{self.description}, or None", lambda v: v is None or self.fits(v))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_COUNT = Kind("an integer >= 1", lambda v: type(v) is int and v >= 1)
_FUNCTION = Kind("a function", callable)
_PATH = Kind("a path", lambda v: isinstance(v, str | os.PathLike))
_PORT = Kind("an integer from 0 to 65535", lambda v: type(v) is int and 0 <= v < 65536)
_SECONDS = Kind("seconds > 0", lambda v: _is_number(v) and v > 0)

KINDS = {
    "batch_size": _COUNT.or_none(),
    "callbacks": Kind(
        "a list of functions", lambda v: isinstance(v, Sequence) and all(map(callable, v))
    ),
    "checkpoint": _PATH.or_none(),
    "checkpoint_every_s": _SECONDS,
    "epochs": _COUNT,
    "evaluate": _FUNCTION.or_none(),
    "evaluate_every_s": _SECONDS.or_none(),
    "host": Kind("an address of this machine", lambda v: isinstance(v, str)).or_none(),
    "keys": Kind("a path", lambda v: isinstance(v, str | os.PathLike | MasterKeys)).or_none(),
    "lease_s": Kind("seconds > 0 and finite", lambda v: _is_number(v) and 0 < v < math.inf),
    "max_in_flight": _COUNT,
    "max_norm": Kind("a number > 0", _SECONDS.fits).or_none(),
    "max_updates": _COUNT.or_none(),
    "port": _PORT,
    "progress": Kind(
        "True, False, a unit such as 'words'", lambda v: isinstance(v, bool | str)
    ).or_none(),
    "publish_bytes_per_s": Kind("bytes > 0", _SECONDS.fits).or_none(),
    "publish_every": _COUNT.or_none(),
    "publish_interval_s": Kind("seconds >= 0", lambda v: _is_number(v) and v >= 0).or_none(),
    "publish_port": _PORT,
    "record": _PATH.or_none(),
    "replica": Kind(f"one of {', '.join(REPLICAS)}", REPLICAS.__contains__),
    "resume": Kind("True, False or 'auto'", lambda v: v in (True, False, "auto")),
    "security": Kind("'curve' or 'none'", lambda v: v in ("curve", "none")),
    "stop_when": _FUNCTION.or_none(),
    "tiers": Kind("Tiers(...) of zmqdist.models.tiers", lambda v: isinstance(v, Tiers)).or_none(),
    "timeout_s": _SECONDS.or_none(),
    "workers": _COUNT.or_none(),
}
"""What the options of `zmqdist.api.ZmqDist` and of its `train()` have to be."""


def check_kinds(options: Mapping[str, object]) -> None:
    """Refuse options that are not of their kind.

    Raises
    ------
    ConfigError
    """
    for name, kind in KINDS.items():
        if name in options and not kind.fits(options[name]):
            raise ConfigError(f"{name} is {options[name]!r:.80}; expected {kind.description}")


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
        check_kinds(vars(self))
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
        if self.resume and self.checkpoint is None:
            raise ConfigError("resume= needs checkpoint=DIR: where to go on from")

    def check_descent(self, descent: Descent | None) -> None:
        """Refuse what is no descent, and none with a policy for gradients."""
        if descent is not None:
            expected = "a function (model, update) or an optimizer, as Adam(0.01) of zmqdist.optim"
            _check_function("descent", descent, expected)
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


FLAGS = {
    "policy": "with --staleness",
    "merge": "with --merge",
    "port": "with --port",
    "publish_port": "with --publish-port",
    "publish_every": "which publishes as often as costs allow",
    "publish_interval_s": "which publishes as often as costs allow",
    "publish_bytes_per_s": "with --publish-bytes-per-s",
    "max_norm": "with --max-norm",
    "lease_s": "with --lease",
    "checkpoint": "with --checkpoint",
    "checkpoint_every_s": "with --checkpoint-every",
    "record": "with --record",
}
"""What a master elsewhere has in place of an option."""


def check_place(master: str | None, keys: object, options: MasterOptions) -> None:
    """Refuse options for a master started here if `master` is elsewhere, and the reverse.

    Raises
    ------
    ConfigError
    """
    if master is None:
        if keys is not None:
            raise ConfigError("keys= is the key file for master=; one started here makes its own")
        return
    parse_address(master)
    default = MasterOptions()
    for name, instead in FLAGS.items():
        if getattr(options, name) != getattr(default, name):
            option = "staleness" if name == "policy" else name
            raise ConfigError(
                f"{option}= is for a master started here; start zmqdist-master {instead}"
            )


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
    callbacks: Sequence[Callback]
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
        _check_function("gradient", self.gradient, "a function (model, data)")
        check_kinds(vars(self))
        if self.tiers is not None and self.batch_size is not None:
            raise ConfigError(
                "give tiers= or batch_size=, not both: with tiers the gradient yields"
            )
        if self.tiers is not None and parse_codec(self.codec)[1] is not None:
            raise ConfigError(
                f"codec={self.codec!r} rounds updates of their own; with tiers=, "
                "Tiers(keep_bits=) does"
            )
        for name in ("evaluate_every_s", "stop_when"):
            if self.evaluate is None and getattr(self, name) is not None:
                raise ConfigError(f"{name}= is for evaluate=, which is not given")


def _check_function(name: str, function: object, expected: str) -> None:
    if isinstance(function, type):
        made = f"{function.__name__}(...)"
        raise ConfigError(f"{name} is the class {function.__name__}; expected {expected}: {made}")
    if not callable(function):
        raise ConfigError(f"{name} is {function!r:.80}; expected {expected}")
