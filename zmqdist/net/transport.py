"""The sockets: ROUTER and XPUB on the master, DEALER and SUB on a worker.

Moves lists of frames and knows nothing of what is in them. Each object is used by one
thread at a time, but for `wake` and, on a client, `stage`, which one other may call.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
from collections.abc import Sequence
from typing import NamedTuple

import zmq
from zmq.utils.monitor import recv_monitor_message

from zmqdist.errors import AddressInUse, ConfigError
from zmqdist.net.address import endpoint, is_loopback, parse_address
from zmqdist.net.door import ZAP_DOMAIN, Door
from zmqdist.net.parts import NOW, Frame, receive_parts, send_parts
from zmqdist.net.security import ClientKeys, MasterKeys

log = logging.getLogger(__name__)

MAX_FRAME_BYTES = (1 << 20) + (1 << 16)
"""Largest frame that is let in, in bytes; a peer that sends a larger one is cut off."""

MAX_FRAMES = 1 << 16
"""Most frames of a message, besides one per MiB that it may have."""

_EVENTS, _INCOMING = int(zmq.EVENTS), int(zmq.POLLIN)

_REFUSED = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
_REFUSED |= zmq.EVENT_HANDSHAKE_FAILED_AUTH

BROADCAST_DEPTH = 2
"""Versions queued per subscriber; a slower one misses some, sees the gap and pulls."""

ANSWER_DEPTH = 64
"""Messages queued per worker or driver that does not read; what comes on top is lost to it."""

SUBSCRIPTIONS_AT_ONCE = 100
"""Subscriptions handled in a row, so that a peer that repeats its own stops nobody else."""

HANDSHAKE_S = 10
"""How long a connection may take to say who it is, in seconds."""

DEAD_LINK_S = 5
"""Silence of the other end's TCP after which a connection is given up and made anew, in seconds."""


class Envelope(NamedTuple):
    """A message as it came in; `role` is "driver", "worker", or None without keys.

    Of one that is `too_large` only the first frames are here.
    """

    peer: bytes
    role: str | None
    frames: list[Frame]
    too_large: bool = False


class MasterSockets:
    """ROUTER for updates and answers, XPUB for versions.

    Parameters
    ----------
    bind_host, advertise_host : str
        See `zmqdist.net.address.choose_hosts`.
    port, publish_port : int
        Ports to bind; 0 takes a free one.
    keys : MasterKeys or None
        None talks plain TCP.
    max_bytes : int
        Largest message that is let in whole, in bytes.
    worker_keys : sequence of str
        Public keys of workers that may come back as soon as the ports are bound: one that
        is refused does not try again.

    Raises
    ------
    AddressInUse
        If a port is taken.
    ConfigError
        If the host is no address of this machine.
    """

    def __init__(
        self,
        bind_host: str,
        advertise_host: str,
        port: int,
        publish_port: int,
        keys: MasterKeys | None,
        max_bytes: int = 1 << 30,
        worker_keys: Sequence[str] = (),
    ) -> None:
        self._max_bytes = max_bytes
        self._max_frames = MAX_FRAMES + (max_bytes >> 20)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._door: Door | None = None
        self._subscribers = 0
        try:
            if keys is not None:
                self._door = Door(self._context, keys.driver_public)
            for key in worker_keys:
                self.admit(key)
            self._router = self._socket(zmq.ROUTER, keys)
            self._router.router_mandatory = True
            self._router.sndhwm = ANSWER_DEPTH
            self._publisher = self._socket(zmq.XPUB, keys)
            self._publisher.sndhwm = BROADCAST_DEPTH
            self._publisher.xpub_manual = True
            self.port = _bind(self._router, bind_host, port, "port")
            self.publish_port = _bind(self._publisher, bind_host, publish_port, "publish_port")
            self._waker = _Waker(self._context)
        except BaseException:
            self.close()
            raise
        if keys is None and not is_loopback(bind_host):
            log.warning(
                "security='none': anyone who reaches %s:%d can read the model and send updates",
                advertise_host,
                self.port,
            )
        self.address = endpoint(advertise_host, self.port)
        self._poller = zmq.Poller()
        for socket in (self._router, self._publisher, self._waker.socket):
            self._poller.register(socket, zmq.POLLIN)

    def _socket(self, kind: int, keys: MasterKeys | None) -> zmq.Socket[bytes]:
        socket = _plain_socket(self._context, kind)
        socket.handshake_ivl = HANDSHAKE_S * 1000
        if keys is not None:
            socket.curve_server = True
            socket.curve_publickey = keys.own.public.encode()
            socket.curve_secretkey = keys.own.secret.encode()
            socket.zap_domain = ZAP_DOMAIN
        return socket

    @property
    def subscribers(self) -> int:
        """How many listen to broadcasts."""
        return self._subscribers

    def wait(self, timeout_s: float) -> None:
        """Return when something came in, `wake` was called or the time is over."""
        events = dict(self._poller.poll(max(0, round(timeout_s * 1000))))
        if self._publisher in events:
            with contextlib.suppress(zmq.Again):
                for _ in range(SUBSCRIPTIONS_AT_ONCE):
                    self._take_subscription(self._publisher.recv(zmq.NOBLOCK, copy=False))
        if self._waker.socket in events:
            self._waker.drain()

    def rest(self, seconds: float) -> None:
        """Read nothing for so long, at least a millisecond, unless `wake` was called."""
        self._waker.socket.poll(max(1, round(seconds * 1000)))

    def _take_subscription(self, news: zmq.Frame) -> None:
        """Subscribe a peer to its run under its own key, whatever else it asked for.

        A broadcast goes out once for each key that is admitted, so that a subscription
        made under a key that is withdrawn hears nothing any more.
        """
        if news.bytes[:1] != b"\x01":
            self._subscribers -= 1
            return
        self._subscribers += 1
        key = str(news.get("User-Id")) if self._door is not None else ""
        self._publisher.subscribe(_topic(news.bytes[1:], key))

    def receive(self) -> Envelope | None:
        """Return the next message that waits, None if there is none.

        Messages of clients whose key was withdrawn are dropped. Of a message with too
        many frames or bytes only the beginning is kept.
        """
        while True:
            try:
                frame = self._router.recv(NOW, copy=False)
            except zmq.Again:
                return None
            peer, role = frame.bytes, None
            if self._door is not None:
                role = self._door.role(str(frame.get("User-Id")))
            frames, too_large = self._rest(frame, self._door is None or role is not None)
            if frames is not None:
                return Envelope(peer, role, frames, too_large)

    def _rest(self, frame: zmq.Frame, wanted: bool) -> tuple[list[Frame] | None, bool]:
        """Read the frames that belong to a peer's name; whether there were too many."""
        frames: list[Frame] = []
        n_frames = n_bytes = 0
        while frame.more:
            frame = self._router.recv(NOW, copy=False)
            n_frames, n_bytes = n_frames + 1, n_bytes + len(frame)
            if wanted and n_frames <= self._max_frames and n_bytes <= self._max_bytes:
                frames.append(frame.buffer)
        return (frames if wanted else None), wanted and len(frames) < n_frames

    def send(self, peer: bytes, frames: Sequence[Frame]) -> bool:
        """Send to one peer without waiting; False if it is gone or does not read."""
        try:
            send_parts(self._router, [peer, *frames])
        except zmq.ZMQError as error:
            if error.errno not in (errno.EHOSTUNREACH, errno.EAGAIN):
                raise
            return False
        return True

    def publish(self, topic: bytes, frames: Sequence[Frame]) -> None:
        """Broadcast; subscribers that are too far behind miss it."""
        keys = self._door.worker_keys() if self._door is not None else [""]
        for key in keys:
            send_parts(self._publisher, [_topic(topic, key), *frames], flags=0)

    def admit(self, worker_public: str) -> None:
        """Let workers with this public key in (nothing to do without keys)."""
        if self._door is not None:
            self._door.admit(worker_public)

    def dismiss(self, worker_public: str) -> None:
        """Cut off workers with this public key."""
        if self._door is not None:
            self._door.dismiss(worker_public)

    def wake(self) -> None:
        """Make `wait` return; for other threads."""
        self._waker.wake()

    def close(self, linger_s: float = 1.0) -> None:
        """Close everything; what is queued gets `linger_s` seconds to leave."""
        if self._door is not None:
            self._door.close()
        self._context.destroy(linger=round(linger_s * 1000))


class ClientSockets:
    """DEALER to the master and, once told where, SUB for versions.

    Parameters
    ----------
    address : str
        ``tcp://host:port`` of the master.
    keys : ClientKeys or None
        None talks plain TCP.
    """

    def __init__(self, address: str, keys: ClientKeys | None) -> None:
        self.address = address
        self._host, port = parse_address(address)
        self._keys = keys
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._poller = zmq.Poller()
        self._subscriber: zmq.Socket[bytes] | None = None
        self._seen = 0
        self._dealer = self._socket(zmq.DEALER)
        self._monitor = self._dealer.get_monitor_socket(
            zmq.EVENT_CONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | _REFUSED
        )
        self._waker = _Waker(self._context)
        for socket in (self._dealer, self._waker.socket):
            self._poller.register(socket, zmq.POLLIN)
        try:
            self._dealer.connect(endpoint(self._host, port))
        except zmq.ZMQError as error:
            self.close(0)
            raise ConfigError(f"cannot connect to {address}: {error}") from None

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket = _plain_socket(self._context, kind)
        socket.reconnect_ivl = 100
        socket.reconnect_ivl_max = 1000
        socket.connect_timeout = DEAD_LINK_S * 1000
        if self._keys is not None:
            socket.curve_serverkey = self._keys.server_public.encode()
            socket.curve_publickey = self._keys.own.public.encode()
            socket.curve_secretkey = self._keys.own.secret.encode()
        return socket

    def subscribe(self, port: int, topic: bytes) -> None:
        """Listen to broadcasts of `topic` on this port of the master's host, and no other."""
        if self._subscriber is not None:
            self._poller.unregister(self._subscriber)
            self._subscriber.close(0)
        subscriber = self._socket(zmq.SUB)
        subscriber.rcvhwm = BROADCAST_DEPTH
        subscriber.subscribe(topic)
        subscriber.connect(endpoint(self._host, port))
        self._poller.register(subscriber, zmq.POLLIN)
        self._subscriber = subscriber

    def wait(self, timeout_s: float) -> None:
        """Return when something came in, `wake` was called or the time is over."""
        events = self._poller.poll(max(0, round(timeout_s * 1000)))
        if any(socket is self._waker.socket for socket, _ in events):
            self._waker.drain()

    def receive(self) -> list[Frame] | None:
        """Return the next message that waits, None if there is none."""
        for socket, first in ((self._dealer, 0), (self._subscriber, 1)):
            # To ask is cheaper than to be told by an exception, and mostly there is nothing.
            if socket is not None and int(socket.get(_EVENTS)) & _INCOMING:
                return receive_parts(socket)[first:]
        return None

    def send(self, frames: Sequence[Frame]) -> None:
        """Queue a message for the master; it leaves once there is a connection.

        Never waits: after a refused handshake there is no queue at all, and a message is
        lost. Whoever sent it sends it again when no answer comes.
        """
        with contextlib.suppress(zmq.Again):
            send_parts(self._dealer, frames)

    def wake(self) -> None:
        """Make `wait` return; for one other thread."""
        self._waker.wake()

    def stage(self) -> str:
        """Say how far the connection got, for the error that nobody answered."""
        while self._monitor.poll(0):
            self._seen |= recv_monitor_message(self._monitor, zmq.NOBLOCK)["event"]
        if self._seen & zmq.EVENT_HANDSHAKE_SUCCEEDED:
            return "connected, but the master did not answer"
        if self._seen & _REFUSED:
            return "a TCP connection was made, but the handshake failed: wrong or missing keys?"
        if self._seen & zmq.EVENT_CONNECTED:
            return (
                "a TCP connection was made, but nobody answered the handshake: the master hangs or "
                "its machine is overloaded, or another program has that port"
            )
        return "no TCP connection could be made"

    def close(self, linger_s: float = 1.0) -> None:
        """Close everything; what is queued gets `linger_s` seconds to leave."""
        self._context.destroy(linger=round(linger_s * 1000))


class _Waker:
    """A pair of sockets with which one thread interrupts another's poll."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._lock = threading.RLock()  # a signal may come while the one before it is handled
        self.socket = context.socket(zmq.PAIR)
        self._other = context.socket(zmq.PAIR)
        for socket in (self.socket, self._other):
            socket.linger = 0
        self.socket.bind("inproc://wake")
        self._other.connect("inproc://wake")

    def wake(self) -> None:
        with self._lock, contextlib.suppress(zmq.ZMQError):  # closed, or woken already
            self._other.send(b"", zmq.NOBLOCK)

    def drain(self) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                self.socket.recv(zmq.NOBLOCK)


def _plain_socket(context: zmq.Context[zmq.Socket[bytes]], kind: int) -> zmq.Socket[bytes]:
    socket = context.socket(kind)
    socket.ipv6 = True
    socket.maxmsgsize = MAX_FRAME_BYTES
    # A cut link is noticed from both ends, whether they were sending or only listening. A
    # subscriber may leave its broadcasts unread for long: that its TCP is full means nothing.
    if kind in (zmq.ROUTER, zmq.DEALER):
        socket.tcp_maxrt = DEAD_LINK_S * 1000
    socket.tcp_keepalive = 1
    socket.tcp_keepalive_idle = DEAD_LINK_S
    socket.tcp_keepalive_intvl = 1
    socket.tcp_keepalive_cnt = DEAD_LINK_S
    return socket


def _topic(run: bytes, key: str) -> bytes:
    """Return the topic of a run for the holders of a key; subscribers ask for the run."""
    return run + b"/" + key.encode()


def _bind(socket: zmq.Socket[bytes], host: str, port: int, option: str) -> int:
    try:
        socket.bind(endpoint(host, port or "*"))
    except zmq.ZMQError as error:
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(
                f"port {port} on {host} is in use by another process; end that process or pass "
                f"another {option}= (0 takes a free one)"
            ) from None
        raise ConfigError(
            f"cannot bind {endpoint(host, port)}: {error.strerror}; host= must be an address of "
            "this machine, or a wildcard such as 0.0.0.0"
        ) from None
    return int(socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
