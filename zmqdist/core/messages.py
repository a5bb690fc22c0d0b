"""The messages of the protocol, as headers: what travels beside the arrays.

Each message is a frozen dataclass of JSON values; the trees of arrays that `Push`
and `Version` announce travel behind the header and never enter the core.
`to_header` and `from_header` are the only way in and out, and `from_header` lets
nothing through that is not exactly of the declared type. docs/protocol.md lists the
messages and who sends which.
"""

from __future__ import annotations

import reprlib
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Union, get_args, get_origin, get_type_hints

from zmqdist.errors import RemoteProtocolError

REQUEUED = "requeue"
"""As `Ack.outcome`, beside those of `zmqdist.core.ledger.Outcome`: compute the step again."""

PROTOCOL = 1
"""Version of the wire protocol; a peer with another one is refused."""


@dataclass(frozen=True, slots=True)
class Message:
    """Base of all messages."""

    kind: ClassVar[str]


# ---- worker to master -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hello(Message):
    """A worker asks for a session on one partition of one epoch.

    `attempt` names the task attempt (Spark's taskAttemptId), `worker` is for people.
    `clock` is 0, or after a lost session the clock it had reached.
    """

    kind: ClassVar[str] = "hello"
    run: str
    epoch: int
    partition: int
    attempt: int
    worker: str
    clock: int = 0


@dataclass(frozen=True, slots=True)
class Push(Message):
    """An update: the result of `step`, computed on version `base`.

    `clock` is the worker's when it began the step, `examples` counts what the update
    was computed from; `empty` says that the gradient returned nothing, so that the step
    only needs settling. `abandoned` says that the worker takes the update for too stale
    (see `Welcome`) and keeps it to itself. No tree follows in either case.

    `wait_s`, `compute_s` and `encode_s` are the seconds that the worker waited before the
    step, spent in the gradient, and spent coding the update. `half_dot` and `half_sq` are
    those of `zmqdist.core.staleness.Arrival`.
    """

    kind: ClassVar[str] = "push"
    session: int
    step: int
    base: int
    clock: int = 0
    examples: int = 0
    empty: bool = False
    metrics: dict[str, float] = field(default_factory=dict)
    abandoned: bool = False
    wait_s: float = 0.0
    compute_s: float = 0.0
    encode_s: float = 0.0
    half_dot: float | None = None
    half_sq: float | None = None


@dataclass(frozen=True, slots=True)
class Pull(Message):
    """Ask for everything changed since version `have` (-1: all), at least up to `want`.

    `session` 0 is the driver. With a `part` other than 0 only the rows are asked for
    that the tree names: {array: row numbers}. Values may be rounded to `keep_bits` bits
    of mantissa; 0 asks for all.
    """

    kind: ClassVar[str] = "pull"
    session: int
    have: int
    want: int = 0
    part: int = 0
    keep_bits: int = 0


@dataclass(frozen=True, slots=True)
class Heartbeat(Message):
    """The worker lives; answered by `Pong`."""

    kind: ClassVar[str] = "heartbeat"
    session: int


@dataclass(frozen=True, slots=True)
class Finish(Message):
    """The partition ended after `steps` steps, all settled as far as the worker knows."""

    kind: ClassVar[str] = "finish"
    session: int
    steps: int


@dataclass(frozen=True, slots=True)
class Fail(Message):
    """The task cannot go on: `gradient` raised (`what` = "gradient") or else."""

    kind: ClassVar[str] = "fail"
    session: int
    step: int
    what: str
    error: str
    traceback: str


# ---- driver to master -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Begin(Message):
    """Open an epoch over that many partitions; admit workers that hold `worker_key`."""

    kind: ClassVar[str] = "begin"
    partitions: int
    worker_key: str = ""


@dataclass(frozen=True, slots=True)
class Status(Message):
    """Ask how an epoch stands; answered by `Report`. Also the driver's heartbeat."""

    kind: ClassVar[str] = "status"
    run: str
    epoch: int


@dataclass(frozen=True, slots=True)
class End(Message):
    """Close an epoch: its workers are told to stop, its late updates are refused."""

    kind: ClassVar[str] = "end"
    run: str
    epoch: int
    reason: str = ""


# ---- master to worker -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Welcome(Message):
    """A session is open.

    Steps below `next` and those in `ahead` are settled; `complete` says that the whole
    partition is, so that nothing is left to do and the session ends as it begins.
    `limit` is the last clock the worker may start (None: no bound), counted from
    `clock`. `lazy_slack`, `synchronous` and `patience` are the policy's: the last is the
    staleness beyond which no update is applied now.
    """

    kind: ClassVar[str] = "welcome"
    session: int
    version: int
    publish_port: int
    next: int
    ahead: list[int]
    complete: bool
    clock: int
    limit: int | None
    lazy_slack: int | None
    lease_s: float
    synchronous: bool = False
    patience: int | None = None


@dataclass(frozen=True, slots=True)
class Ack(Message):
    """What became of a step: applied, rejected, skipped, or requeue.

    `version` is the master's now, `published` the newest that workers can hold, `need`
    the oldest that the worker may start its next step on. `limit` is the session's and
    `patience` the policy's, as in `Welcome`.
    """

    kind: ClassVar[str] = "ack"
    session: int
    step: int
    outcome: str
    version: int
    published: int
    limit: int | None
    duplicate: bool = False
    need: int = 0
    patience: int | None = None


@dataclass(frozen=True, slots=True)
class Finished(Message):
    """Answer to `Finish`: done, or from which step on the ledger has a hole.

    Ends the session. Other attempts at a partition that is done get it unasked.
    """

    kind: ClassVar[str] = "finished"
    session: int
    complete: bool
    next: int


@dataclass(frozen=True, slots=True)
class Go(Message):
    """The limit of a session moved."""

    kind: ClassVar[str] = "go"
    session: int
    limit: int | None


@dataclass(frozen=True, slots=True)
class Pong(Message):
    """Answer to `Heartbeat`; `limit` again, in case its `Go` was lost."""

    kind: ClassVar[str] = "pong"
    session: int
    limit: int | None


@dataclass(frozen=True, slots=True)
class Rejoin(Message):
    """The session is unknown or ran out of its lease: say `Hello` again."""

    kind: ClassVar[str] = "rejoin"
    session: int


@dataclass(frozen=True, slots=True)
class Stop(Message):
    """End the task: the epoch was closed, another run owns this port, or it failed."""

    kind: ClassVar[str] = "stop"
    session: int
    reason: str


@dataclass(frozen=True, slots=True)
class Refused(Message):
    """The message before this one was not understood or not allowed; it changed nothing."""

    kind: ClassVar[str] = "refused"
    reason: str


# ---- master to everybody ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Version(Message):
    """Rows and scalars that changed in (`base`, `version`]; base -1 carries everything.

    The same form goes out as a broadcast and as the answer to a `Pull`. `clock` is
    the slowest worker's clock when the version was taken: updates of earlier clocks
    are all in it. `part` is that of the `Pull`.
    """

    kind: ClassVar[str] = "version"
    run: str
    base: int
    version: int
    clock: int
    part: int = 0


# ---- master to driver -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Begun(Message):
    """An epoch is open."""

    kind: ClassVar[str] = "begun"
    run: str
    epoch: int
    version: int
    schema: dict[str, list[Any]]
    lease_s: float


@dataclass(frozen=True, slots=True)
class Report(Message):
    """How an epoch stands.

    `missing` are the partitions not complete, `totals` the run's counters,
    `staleness` the histogram [[tau, count], ...] of the applied updates since the
    run began, `metrics` {name: [sum, count]} over the same, `failures` what tasks
    reported, `fatal` a failure that ends the run.
    """

    kind: ClassVar[str] = "report"
    version: int
    published: int
    workers: int
    missing: list[int]
    totals: dict[str, float]
    staleness: list[list[int]]
    metrics: dict[str, list[float]]
    failures: list[dict[str, Any]]
    fatal: dict[str, Any] | None = None


_KINDS: dict[str, type[Message]] = {cls.kind: cls for cls in Message.__subclasses__()}
_HINTS = {cls: get_type_hints(cls) for cls in _KINDS.values()}


def to_header(message: Message) -> dict[str, Any]:
    """Return the JSON object of a message."""
    header = {entry.name: getattr(message, entry.name) for entry in fields(message)}
    header["zmqdist"] = PROTOCOL
    header["kind"] = message.kind
    return header


def from_header(header: object) -> Message:
    """Build a message from a JSON value; keys it does not know are ignored.

    Raises
    ------
    RemoteProtocolError
        If the value is not an object, of another protocol version, of an unknown
        kind, or if a field is missing or of another type than declared.
    """
    if not isinstance(header, dict):
        raise RemoteProtocolError(f"header is a JSON {type(header).__name__}; expected an object")
    if header.get("zmqdist") != PROTOCOL:
        raise RemoteProtocolError(
            f"protocol version is {_short(header.get('zmqdist'))}; expected {PROTOCOL}: install "
            "the same version of zmqdist on the driver, the master and the executors"
        )
    kind = header.get("kind")
    cls = _KINDS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise RemoteProtocolError(f"unknown message kind {_short(kind)}")
    return cls(**_checked(cls, header))


def _checked(cls: type[Message], header: Mapping[str, Any]) -> dict[str, Any]:
    values = {}
    for entry in fields(cls):
        if entry.name not in header:
            continue
        value = header[entry.name]
        if not _fits(value, _HINTS[cls][entry.name]):
            raise RemoteProtocolError(
                f"{cls.kind}.{entry.name} is {_short(value)}; expected {entry.type}"
            )
        values[entry.name] = value
    required = {f.name for f in fields(cls) if f.default is f.default_factory}
    if missing := sorted(required - values.keys()):
        raise RemoteProtocolError(f"{cls.kind} lacks {', '.join(missing)}")
    return values


def _fits(value: object, hint: Any) -> bool:
    """Whether a JSON value is of a declared type; bool is no int, int is a float."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if origin is list:
        (item,) = get_args(hint)
        return isinstance(value, list) and all(_fits(entry, item) for entry in value)
    if origin is dict:
        _, item = get_args(hint)
        return isinstance(value, dict) and all(_fits(entry, item) for entry in value.values())
    if hint is Any:
        return True
    if hint is float and isinstance(value, float):
        return True
    if hint is int or hint is float:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return isinstance(value, hint)


def _short(value: object) -> str:
    """Return a repr that a peer can make neither long nor deep."""
    return f"{reprlib.repr(value):.60}"
