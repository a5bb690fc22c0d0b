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
    Publish,
    Send,
    SendSnapshot,
)
from zmqdist.core.master_state import MasterState
from zmqdist.core.messages import Begin, End, Message, Refused, Status, Version
from zmqdist.core.pacing import Pacing
from zmqdist.core.staleness import Policy, default_policy
from zmqdist.errors import ProtocolError, RemoteProtocolError, UpdateError, ZmqdistError
from zmqdist.models.base import Parameters, parameters_of
from zmqdist.models.delta import add
from zmqdist.models.snapshot import Snapshot
from zmqdist.net.security import MasterKeys
from zmqdist.net.transport import Envelope, MasterSockets
from zmqdist.wire.frames import pack, unpack
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
    codec: str = "auto"
    lease_s: float = 30.0
    publish_every: int | None = None
    publish_interval_s: float | None = None


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
            pacing=Pacing(options.publish_every, options.publish_interval_s),
        )
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

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
            else:
                self._perform([action])

    def _perform(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
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
            self._check(update)
            if action.scale != 1.0:
                update = scale_tree(update, action.scale)
            if self.descent is None:
                add(self.parameters, update)
            else:
                self.descent(self.model, update)
            self.parameters.arrays()
        except UpdateError as error:
            self._perform(self.state.misfit(action, "update", str(error)))
        except Exception as error:  # the user's code may raise anything
            self.error = error
            text = f"{type(error).__name__}: {error}"
            trace = traceback.format_exc()
            self._perform(self.state.misfit(action, "descent", text, trace))
        else:
            self._perform(self.state.applied(action))

    def _check(self, update: Any) -> None:
        """Refuse what would harm the model, before any of it is changed."""
        if (where := first_nonfinite(update)) is not None:
            raise UpdateError(
                f"{where} has NaN or infinite values; the model is unchanged. Lower the "
                "learning rate, or leave such updates out in gradient (return None)"
            )
        if not isinstance(update, dict):
            return
        arrays = self.parameters.arrays()
        for name, value in update.items():
            shape = getattr(value, "shape", ())
            if name in arrays and not _broadcasts(shape, arrays[name].shape):
                raise UpdateError(
                    f"update[{name!r}] has shape {tuple(shape)}; expected the parameter's shape "
                    f"{arrays[name].shape}; the model is unchanged"
                )

    # ---- a version -----------------------------------------------------------------------

    def _publish(self) -> None:
        """Take the snapshot and broadcast what changed: encoded once for everybody."""
        self.state.totals.publications += 1
        started = time.monotonic()
        base, version = self.state.published, self.state.version
        tree = self._snapshot.take(version)
        if self._sockets.subscribed and base >= 0:
            self._sockets.publish(self.state.run.encode(), self._version_frames(base, tree))
        self.state.was_published(started, time.monotonic())

    def _send_snapshot(self, action: SendSnapshot) -> None:
        self.state.totals.pulls += 1
        base = min(action.have, self._snapshot.version)
        self._sockets.send(action.peer, self._version_frames(base, self._snapshot.since(base)))

    def _version_frames(self, base: int, tree: dict[str, Any]) -> list[Any]:
        encoded = encode_tree(tree, self.options.codec)
        self.state.totals.bytes_published += encoded.encoded_bytes
        self.state.totals.bytes_published_decoded += encoded.decoded_bytes
        clock = self.state.slowest()
        version = Version(self.state.run, base, self._snapshot.version, clock)
        return pack(version, encoded)


def _check_role(role: str | None, message: Message) -> None:
    """Refuse a driver's message under a worker's key (without keys, all may send it)."""
    if role == "worker" and isinstance(message, (Begin, Status, End)):
        raise RemoteProtocolError(f"a worker may not send {message.kind!r}")


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(shape, target) == target
    except ValueError:
        return False
