"""The door: who may come in, by ZAP (ZeroMQ RFC 27), and as what."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time

import zmq
from zmq.auth import Authenticator
from zmq.utils import z85

from zmqdist.core.notices import Notices

log = logging.getLogger(__name__)

ZAP_DOMAIN = b"zmqdist"

PAUSE_S = 0.02
"""Rest after strangers were turned away, in seconds: more of them are answered in one go."""

AT_ONCE = 100
"""Requests answered in a row, so that those who crowd the door do not keep it from closing."""


class Roles:
    """Who may come in, and as what: the driver's key and the admitted workers' keys.

    `role` is asked once per message, so that a key withdrawn later is cut off although
    its connection lives.

    Attributes
    ----------
    turned_away : int
        How many connections were refused.
    """

    def __init__(self, driver_public: str) -> None:
        self._roles = {driver_public: "driver"}
        self._refused = Notices()
        self.turned_away = 0

    def callback(self, domain: str, key: bytes) -> bool:
        """Say whether a client with this public key (Z85) may connect."""
        if key.decode() in self._roles:
            return True
        self.turned_away += 1
        if (more := self._refused.due(time.monotonic())) is not None:
            log.warning("refused a connection with an unknown key%s", more)
        return False

    def admit(self, worker_public: str) -> None:
        """Let workers with this public key in."""
        self._roles.setdefault(worker_public, "worker")

    def dismiss(self, worker_public: str) -> None:
        """Let nobody in with this worker's key any more."""
        if self._roles.get(worker_public) == "worker":
            del self._roles[worker_public]

    def worker_keys(self) -> list[str]:
        """Return the public keys of the workers that are let in."""
        return [key for key, role in list(self._roles.items()) if role == "worker"]

    def role(self, user_id: str) -> str | None:
        """Return "driver", "worker" or None for the sender of a message."""
        return self._roles.get(user_id)


class Door(Roles):
    """Answers ZAP requests by `Roles`, in a thread of its own."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], driver_public: str) -> None:
        super().__init__(driver_public)
        self._authenticator = _Authenticator(context, self)
        self._authenticator.start()

    def close(self) -> None:
        """Stop the authenticator's thread."""
        self._authenticator.stop()


class _Authenticator(Authenticator):
    """pyzmq's, which decides and answers, without its thread.

    That one sets up asyncio's poller for each request, and competes with the master for the
    interpreter each time: of 0.64 ms of processor time for each stranger's knock 0.13 were that.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], roles: Roles) -> None:
        # The library would write client keys into the log at level DEBUG.
        quiet = logging.getLogger(f"{__name__}.zap")
        quiet.setLevel(logging.ERROR)
        super().__init__(context, log=quiet)
        self._roles = roles
        self.configure_curve_callback(ZAP_DOMAIN.decode(), credentials_provider=roles)

    def start(self) -> None:
        """Listen."""
        super().start()
        self._bell, bell = (self.context.socket(zmq.PAIR) for _ in range(2))
        for socket in (self._bell, bell):
            socket.linger = 0
        self._bell.bind("inproc://door")
        bell.connect("inproc://door")
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(bell)), name="zmqdist-door", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Listen no more."""
        with contextlib.suppress(zmq.ZMQError):
            self._bell.send(b"", zmq.NOBLOCK)
        self._thread.join()
        self._bell.close()
        super().stop()

    async def _serve(self, bell: zmq.Socket[bytes]) -> None:
        poller = zmq.Poller()
        poller.register(bell, zmq.POLLIN)
        poller.register(self.zap_socket, zmq.POLLIN)
        with bell:
            # Blocks the thread's event loop, on which nothing else lives.
            while bell not in dict(poller.poll()):
                before = self._roles.turned_away
                for _ in range(AT_ONCE):
                    if not self.zap_socket.poll(0):
                        break
                    await self.handle_zap_message(self.zap_socket.recv_multipart())
                if self._roles.turned_away > before:
                    await asyncio.sleep(PAUSE_S)

    def curve_user_id(self, client_public_key: bytes) -> str:
        """Name the sender of each message by its public key, for `Door.role`."""
        return z85.encode(client_public_key).decode()
