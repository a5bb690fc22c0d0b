"""The messages of the protocol: what travels beside the arrays.

Each message is a frozen dataclass of JSON values; the trees of arrays that `Push`
and `Version` announce travel behind the header and never enter the core.
`zmqdist.core.headers` is the only way in and out. docs/protocol.md lists the messages
and who sends which.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from zmqdist.core.lineage import Point

REQUEUED = "requeue"
"""As `Ack.outcome`, beside those of `zmqdist.core.ledger.Outcome`: compute the step again."""

IN_LINE = -1
"""As `Pong.number`: what the worker has sent stands in line, and the heartbeat passed it."""

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
    `clock` is 0, or after a lost session the clock it had reached; `passes` is then what the
    first `Welcome` said.
    """

    kind: ClassVar[str] = "hello"
    run: str
    epoch: int
    partition: int
    attempt: int
    worker: str
    clock: int = 0
    passes: float | None = None


@dataclass(frozen=True, slots=True)
class Push(Message):
    """An update: the result of `step`, computed on version `base` of `incarnation`.

    `clock` is the worker's when it began the step, `examples` counts what the update
    was computed from; `empty` says that the gradient returned nothing, so that the step
    only needs settling. `abandoned` says that the worker takes the update for too stale
    (see `Welcome`) and keeps it to itself. No tree follows in either case.

    The worker waited `wait_ack_s` seconds for answers, `wait_gate_s` for its limit and
    `wait_model_s` for a fresher model since its update before, computed for `compute_s`
    and coded for `encode_s`; `other_s` is the rest of its time. `travel_s` sums up, over the
    updates answered since then, the seconds from leaving to the answer. For `half_dot` and
    `half_sq` see `zmqdist.core.staleness.Arrival`.
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
    wait_ack_s: float = 0.0
    wait_gate_s: float = 0.0
    wait_model_s: float = 0.0
    compute_s: float = 0.0
    encode_s: float = 0.0
    other_s: float = 0.0
    travel_s: float = 0.0
    half_dot: float | None = None
    half_sq: float | None = None
    incarnation: int = 0

    @property
    def point(self) -> Point:
        """What it was computed on."""
        return Point(self.incarnation, self.base)


@dataclass(frozen=True, slots=True)
class Pull(Message):
    """Ask for everything changed since version `have` (-1: all), at least up to `want`.

    `session` 0 is the driver. With a `part` other than 0 only the rows are asked for
    that the tree names: {array: row numbers}. Values may be rounded to `keep_bits` bits
    of mantissa; 0 asks for all. Who has nothing may let a large model come in pieces, and
    says from which row on, counted through all arrays: `start`; with -1 it comes whole.
    """

    kind: ClassVar[str] = "pull"
    session: int
    have: int
    want: int = 0
    part: int = 0
    keep_bits: int = 0
    start: int = -1


@dataclass(frozen=True, slots=True)
class Heartbeat(Message):
    """The worker lives; answered by `Pong` with the same `number`."""

    kind: ClassVar[str] = "heartbeat"
    session: int
    number: int = 0


@dataclass(frozen=True, slots=True)
class Finish(Message):
    """The partition ended after `steps` steps, all settled as far as the worker knows.

    The times since the last update are as in `Push`: of the waits for the last answers, above all.
    """

    kind: ClassVar[str] = "finish"
    session: int
    steps: int
    wait_ack_s: float = 0.0
    wait_gate_s: float = 0.0
    wait_model_s: float = 0.0
    compute_s: float = 0.0
    encode_s: float = 0.0
    other_s: float = 0.0
    travel_s: float = 0.0


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
    """Open an epoch over that many partitions; admit workers that hold `worker_key`.

    It is epoch `number` of the `train`-th ``train()`` of `program`, and the same one if
    it was begun before; without a `program` it is always a new one. `steps` says how the
    data is cut into steps. A driver that was started again says `resume` and means the
    program that was interrupted.
    """

    kind: ClassVar[str] = "begin"
    partitions: int
    worker_key: str = ""
    program: str = ""
    train: int = 0
    number: int = 0
    steps: str = ""
    resume: bool = False


@dataclass(frozen=True, slots=True)
class Status(Message):
    """Ask how an epoch stands; answered by `Report`. Also the driver's heartbeat."""

    kind: ClassVar[str] = "status"
    run: str
    epoch: int


@dataclass(frozen=True, slots=True)
class End(Message):
    """Close an epoch: its workers are told to stop, its late updates are refused.

    `over` says that its ``train()`` returns: nothing of that is to be resumed. It counts in
    `incarnation` only, since a later one may have lost what was complete.
    """

    kind: ClassVar[str] = "end"
    run: str
    epoch: int
    reason: str = ""
    over: bool = False
    incarnation: int = 0


@dataclass(frozen=True, slots=True)
class Leave(Message):
    """The driver's program is at its end: who resumes begins another."""

    kind: ClassVar[str] = "leave"
    run: str
    program: str


# ---- master to worker -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Welcome(Message):
    """A session is open.

    Steps below `next` and those in `ahead` are settled; `complete` says that the whole
    partition is, so that nothing is left to do and the session ends as it begins.
    `limit` is the last clock the worker may start (None: no bound), counted from
    `clock`. `lazy_slack`, `synchronous` and `patience` are the policy's: the last is the
    staleness beyond which no update is applied now. `published` is the newest version that
    workers can hold. Versions are those of `incarnation`. `passes` is how often the data
    had been gone through when a worker first came for this partition: a whole number for
    the epochs before, and the share of the partitions of this one that were complete.
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
    incarnation: int = 0
    published: int = -1
    passes: float = 0.0


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
    """Answer to `Heartbeat` of that `number`; `limit` again, in case its `Go` was lost."""

    kind: ClassVar[str] = "pong"
    session: int
    limit: int | None
    number: int = 0


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
    """Rows and scalars that changed in (`base`, `version`] of the `incarnation`; base -1: all.

    The same form goes out as a broadcast and as the answer to a `Pull`. `clock` is
    the slowest worker's clock when the version was taken: updates of earlier clocks
    are all in it. `part` is that of the `Pull`, and `start` too if this is a piece: the
    rows before `end`, from which on to ask for more. After the last piece that is 0.
    """

    kind: ClassVar[str] = "version"
    run: str
    base: int
    version: int
    clock: int
    part: int = 0
    incarnation: int = 0
    start: int = 0
    end: int = 0


# ---- master to driver -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Begun(Message):
    """An epoch is open; -1 if the ``train()`` that it is part of is over already.

    `before` are the counters of a `Report` as they were when the ``train()`` began;
    `unfit_in_place` says why workers cannot train in place, if the policy is against it.
    """

    kind: ClassVar[str] = "begun"
    run: str
    epoch: int
    version: int
    schema: dict[str, list[Any]]
    lease_s: float
    program: str = ""
    before: dict[str, Any] = field(default_factory=dict)
    incarnation: int = 0
    unfit_in_place: str = ""


@dataclass(frozen=True, slots=True)
class Report(Message):
    """How an epoch stands.

    `missing` are the partitions not complete, `totals` the run's counters,
    `staleness` the histogram [[tau, count], ...] of the applied updates since the
    run began, `metrics` {name: [sum, count]} over the same, `failures` what tasks
    reported, `fatal` a failure that ends the run. Of the `changes` so far the newest
    checkpoint holds `saved` (None: there are no checkpoints); `trouble` is why the last
    attempt to write one failed. `policy` are the policy's figures, by name.
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
    incarnation: int = 0
    changes: int = 0
    saved: int | None = None
    trouble: str = ""
    policy: dict[str, float] = field(default_factory=dict)
