"""The master: poll, let the state decide, act.

Owns the model while it runs, in one thread that also owns the sockets. Decisions are
`zmqdist.core.master_state`'s; what is here decodes, checks, descends, publishes.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zmqdist.core.actions import (
    Action,
    Admit,
    Apply,
    Dismiss,
    Flush,
    Publish,
    Send,
    SendSnapshot,
)
from zmqdist.core.master_state import MasterState
from zmqdist.core.messages import Begin, Begun, End, Message, Refused, Status, Version
from zmqdist.core.pacing import Pacing
from zmqdist.core.staleness import Policy, default_policy
from zmqdist.damping import RowDamping
from zmqdist.errors import (
    ConfigError,
    ModelError,
    ProtocolError,
    RemoteProtocolError,
    UpdateError,
    ZmqdistError,
)
from zmqdist.merge import Mean, Merge, RowTrustRegion, Sum
from zmqdist.models.base import Parameters, parameters_of
from zmqdist.models.delta import add
from zmqdist.models.snapshot import Snapshot
from zmqdist.net.security import MasterKeys
from zmqdist.net.transport import Envelope, MasterSockets
from zmqdist.wire.codec import CODECS
from zmqdist.wire.frames import Received, pack, unpack
from zmqdist.wire.leaves import first_nonfinite, scale_tree, tree_bytes
from zmqdist.wire.tree import encode_tree

log = logging.getLogger(__name__)

Descent = Callable[[Any, Any], object]

IDLE_S = 0.2
"""Longest sleep of the loop, in seconds: how soon leases and stops are noticed."""

DRAIN_S = 1.0
"""Longest run of messages handled without a look at the clock, in seconds."""

MIN_UPDATE_BYTES = 256 << 20
"""Updates may decode to this much or four times the model, whichever is more."""


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
        if not self.lease_s > 0:
            raise ConfigError(f"lease_s is {self.lease_s!r}; expected seconds > 0")
        self.pacing()

    def pacing(self) -> Pacing:
        """Return a new pacing by these options."""
        return Pacing(self.publish_every, self.publish_interval_s)


class Master:
    """Applies updates to one model and publishes it.

    Binding happens in the constructor, so that a port in use is an error there.

    Parameters
    ----------
    model : object
        What `zmqdist.models.base.parameters_of` takes; changed in place.
    options : MasterOptions
        See there.

    Attributes
    ----------
    descent : callable (model, update) or None
        None adds updates to the parameters of their name.
    error : BaseException or None
        What `descent` or the loop itself raised last.
    """

    def __init__(self, model: Any, options: MasterOptions) -> None:
        self.model = model
        self.parameters: Parameters = parameters_of(model)
        self.descent: Descent | None = None
        self.error: BaseException | None = None
        self.options = options
        schema = self.parameters.schema()
        self._params_bytes = sum(a.nbytes for a in self.parameters.arrays().values())
        self._max_update_bytes = max(MIN_UPDATE_BYTES, 4 * self._params_bytes)
        self._snapshot = Snapshot(self.parameters)
        merge = options.merge
        self._damping: RowDamping | None = None
        if isinstance(merge, RowTrustRegion) and not options.policy.buffers:
            self._damping = RowDamping(merge.cap)
        self._merge = merge or Mean()
        self._buffered: list[Any] = []
        self._sockets = MasterSockets(
            options.bind_host,
            options.advertise_host,
            options.port,
            options.publish_port,
            options.keys,
        )
        self.state = MasterState(
            secrets.token_hex(8),
            options.policy,
            schema={name: [dtype, list(shape)] for name, (dtype, shape) in schema.items()},
            publish_port=self._sockets.publish_port,
            lease_s=options.lease_s,
            pacing=options.pacing(),
        )
        self._check_schema()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def _check_schema(self) -> None:
        """Refuse a model whose description does not fit into a header."""
        try:
            pack(Begun(self.state.run, 0, 0, self.state.schema, self.options.lease_s))
        except ProtocolError as error:
            self._sockets.close()
            raise ModelError(
                f"the model has {len(self.state.schema):,} arrays, too many to describe: {error}"
            ) from None

    @property
    def address(self) -> str:
        """Where drivers and workers connect, ``tcp://host:port``."""
        return self._sockets.address

    def start(self) -> None:
        """Run the loop in a thread of its own."""
        self._thread = threading.Thread(target=self.run, name="zmqdist-master", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Make `run` return and, if it runs in a thread, wait for it."""
        self._stopping.set()
        self._sockets.wake()
        if self._thread is not None:
            self._thread.join()

    def run(self) -> None:
        """Serve until `stop`; closes the sockets."""
        try:
            while not self._stopping.is_set():
                self._sockets.wait(self._patience_s())
                self._drain()
                self._perform(self.state.tick(time.monotonic()))
        except BaseException as error:
            self.error = error
            log.exception("the master ends on an error")
            raise
        finally:
            self._sockets.close()

    @property
    def alive(self) -> bool:
        """Whether the thread of `start` still runs."""
        return self._thread is not None and self._thread.is_alive()

    # ---- the loop ----------------------------------------------------------------------

    def _patience_s(self) -> float:
        state = self.state
        due_in_s = state.pacing.due_in_s(state.version, state.published, time.monotonic())
        return IDLE_S if due_in_s is None else min(IDLE_S, due_in_s)

    def _drain(self) -> None:
        """Handle what waits: before time passes, or live workers would look dead."""
        until = time.monotonic() + DRAIN_S
        while (envelope := self._sockets.receive()) is not None:
            self._take(envelope)
            now = time.monotonic()
            if self.state.publish_due(now):
                self._publish()
            if now > until:
                return

    def _take(self, envelope: Envelope) -> None:
        self.state.totals.bytes_received += sum(len(frame) for frame in envelope.frames)
        try:
            received = unpack(envelope.frames)
            message = received.message
            _check_role(envelope.role, message)
        except ProtocolError as error:
            self._refuse(envelope.peer, error)
            return
        for action in self.state.receive(envelope.peer, message, time.monotonic()):
            if isinstance(action, Apply):
                self._apply(action, lambda: received.decode(self._max_update_bytes))
            elif isinstance(action, SendSnapshot) and action.part:
                self._send_part(action, received)
            else:
                self._perform([action])

    def _perform(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Flush():
                    self._flush(action)
                case Send():
                    self._sockets.send(action.peer, pack(action.message))
                case Publish():
                    self._publish()
                case SendSnapshot():
                    self._send_snapshot(action)
                case Admit():
                    self._sockets.admit(action.key)
                case Dismiss():
                    self._sockets.dismiss(action.key)

    def _refuse(self, peer: bytes, error: ProtocolError) -> None:
        self.state.totals.refused += 1
        log.warning("refused a message: %s", error)
        self._sockets.send(peer, pack(Refused(str(error))))

    # ---- an update ----------------------------------------------------------------------

    def _apply(self, action: Apply, decode: Callable[[], Any]) -> None:
        try:
            update = decode()
        except RemoteProtocolError as error:
            log.warning("refused %s: %s", action.key, error)
            self._perform(self.state.garbled(action, str(error)))
            return
        except ZmqdistError as error:
            self._perform(self.state.misfit(action, "update", str(error)))
            return
        self.state.totals.bytes_received_decoded += tree_bytes(update)
        try:
            _check_finite(update)
            if action.scale != 1.0:
                update = scale_tree(update, action.scale)
            if self._damping is not None:
                update = self._damping.damp(update, self.state.version, action.tau)
            if not self.options.policy.buffers:
                self._descend(update)
        except Exception as error:  # the user's code may raise anything
            self._perform(self.state.misfit(action, *self._failure(error)))
            return
        now = time.monotonic()
        if self.options.policy.buffers:
            self._buffered.append(update)
            self._perform(self.state.buffered(action, now))
        else:
            self._perform(self.state.applied(action, now))

    def _flush(self, flush: Flush) -> None:
        """Merge what the buffer holds and apply it as one update."""
        updates, self._buffered = self._buffered, []
        try:
            self._descend(self._merge.merge(updates))
        except Exception as error:  # as above
            # An epoch that was closed meanwhile has no report left to say this in.
            log.error("cannot apply %d merged updates: %s", len(updates), error)
            self._perform(self.state.unflushed(flush, *self._failure(error)))
        else:
            self.state.flushed(flush)

    def _descend(self, update: Any) -> None:
        if self.descent is None:
            add(self.parameters, update)
            self._snapshot.touched(update, only=True)
        else:
            self._snapshot.touched(update, only=False)
            self.descent(self.model, update)
        self.parameters.arrays(), self.parameters.scalars()  # still what they were

    def _failure(self, error: Exception) -> tuple[str, str, str]:
        """Return what failed, the error and its traceback."""
        if isinstance(error, UpdateError):
            return "update", str(error), ""
        self.error = error
        return "descent", f"{type(error).__name__}: {error}", traceback.format_exc()

    # ---- a version -----------------------------------------------------------------------

    def _publish(self) -> None:
        """Take the snapshot and broadcast what changed: encoded once for everybody."""
        self.state.totals.publications += 1
        started = time.monotonic()
        base, version = self.state.published, self.state.version
        try:
            tree = self._snapshot.take(version)
        except ModelError as error:  # descent, or the program beside it, spoilt the model
            self._perform(self.state.fail_all("model", str(error)))
            return
        if self._sockets.subscribed and base >= 0:
            self._sockets.publish(self.state.run.encode(), self._version_frames(base, tree))
        self.state.was_published(started, time.monotonic())

    def _send_snapshot(self, action: SendSnapshot) -> None:
        self.state.totals.pulls += 1
        base = min(action.have, self._snapshot.version)
        self._sockets.send(
            action.peer,
            self._version_frames(base, self._snapshot.since(base, None, action.keep_bits)),
        )

    def _send_part(self, action: SendSnapshot, received: Received) -> None:
        """Answer a pull that names the rows it wants."""
        try:
            rows = received.decode(self._max_update_bytes)
            if not isinstance(rows, dict) or not all(_are_rows(r) for r in rows.values()):
                raise RemoteProtocolError("a pull of a part lacks its rows: {array: row numbers}")
        except ProtocolError as error:
            self._refuse(action.peer, error)
            return
        self.state.totals.pulls += 1
        base = min(action.have, self._snapshot.version)
        tree = self._snapshot.since(base, rows, action.keep_bits)
        self._sockets.send(action.peer, self._version_frames(base, tree, action.part))

    def _version_frames(self, base: int, tree: dict[str, Any], part: int = 0) -> list[Any]:
        encoded = encode_tree(tree, self.options.codec)
        self.state.totals.bytes_published += encoded.encoded_bytes
        self.state.totals.bytes_published_decoded += encoded.decoded_bytes
        clock = self.state.slowest()
        version = Version(self.state.run, base, self._snapshot.version, clock, part)
        return pack(version, encoded)


def _check_role(role: str | None, message: Message) -> None:
    """Refuse a driver's message under a worker's key (without keys, all may send it)."""
    if role == "worker" and isinstance(message, (Begin, Status, End)):
        raise RemoteProtocolError(f"a worker may not send {message.kind!r}")


def _are_rows(rows: Any) -> bool:
    return isinstance(rows, np.ndarray) and rows.ndim == 1 and rows.dtype.kind in "iu"


def _check_finite(update: Any) -> None:
    """Refuse what would spoil the model, before any of it is changed."""
    if (where := first_nonfinite(update)) is not None:
        raise UpdateError(
            f"{where} has NaN or infinite values; the model is unchanged. Lower the learning "
            "rate, or leave such updates out in gradient (return None)"
        )
