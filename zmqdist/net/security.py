"""CURVE keys: who holds which, key files, and the ZAP check at the door.

Three key pairs exist. The *server* pair names the master. The *driver* pair opens
and closes epochs. A *worker* pair is made anew for each `train()`, travels in the
task closure and only joins and pushes. No key ever shows in a `repr`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils import z85

from zmqdist.core.notices import Notices
from zmqdist.errors import ConfigError

log = logging.getLogger(__name__)

ZAP_DOMAIN = b"zmqdist"
MAX_KEY_FILE_BYTES = 10_000
DEFAULT_KEY_FILE = "~/.zmqdist/keys"
"""Key file of `zmqdist-master` and of ``ZmqDist(master=...)`` when none is named."""


@dataclass(frozen=True)
class KeyPair:
    """A CURVE key pair, both keys in Z85 (40 characters)."""

    public: str = field(repr=False)
    secret: str = field(repr=False)

    @staticmethod
    def generate() -> KeyPair:
        """Make a new pair from the system's random source."""
        public, secret = zmq.curve_keypair()
        return KeyPair(public.decode(), secret.decode())


@dataclass(frozen=True)
class ClientKeys:
    """What a connecting socket needs: its own pair and the server's public key."""

    own: KeyPair
    server_public: str = field(repr=False)


@dataclass(frozen=True)
class MasterKeys:
    """What the master needs: its own pair and the driver's public key."""

    own: KeyPair
    driver_public: str = field(repr=False)


def default_key_file() -> Path:
    """Return ``$ZMQDIST_KEYS`` or ``~/.zmqdist/keys``."""
    return Path(os.environ.get("ZMQDIST_KEYS") or DEFAULT_KEY_FILE).expanduser()


def write_key_files(path: Path) -> Path:
    """Make new keys: `path` for the master, ``path.client`` for drivers elsewhere.

    The first holds all keys, so a driver of the same user can use it too; the second
    lacks the server's secret. Both are readable by their owner only.

    Returns
    -------
    Path
        The client's file.

    Raises
    ------
    ConfigError
        If one of the files exists or cannot be written.
    """
    server, driver = KeyPair.generate(), KeyPair.generate()
    client = {
        "zmqdist_keys": 1,
        "server_public": server.public,
        "driver_public": driver.public,
        "driver_secret": driver.secret,
    }
    client_path = path.with_name(path.name + ".client")
    for file, keys in ((path, {**client, "server_secret": server.secret}), (client_path, client)):
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise ConfigError(
                f"key file {file} exists already; name another or remove it first"
            ) from None
        except OSError as error:
            raise ConfigError(f"cannot write key file {file}: {error}") from None
        with os.fdopen(descriptor, "w") as stream:
            json.dump(keys, stream, indent=1)
    return client_path


def read_master_keys(path: Path) -> MasterKeys:
    """Read the master's keys from a file that `write_key_files` made."""
    keys = _read(path)
    if "server_secret" not in keys:
        raise ConfigError(
            f"{path} is a client's key file (no server_secret); give the master the file "
            "without .client"
        )
    return MasterKeys(KeyPair(keys["server_public"], keys["server_secret"]), keys["driver_public"])


def read_client_keys(path: Path) -> ClientKeys:
    """Read the driver's keys from either of the two files of `write_key_files`."""
    keys = _read(path)
    return ClientKeys(KeyPair(keys["driver_public"], keys["driver_secret"]), keys["server_public"])


def _read(path: Path) -> dict[str, str]:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            octets = file.read(MAX_KEY_FILE_BYTES)
    except OSError as error:
        raise ConfigError(
            f"cannot read key file {path}: {error.strerror}; make one with "
            "`zmqdist-master keygen FILE` and pass keys=FILE (--keys FILE)"
        ) from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(
            f"key file {path} can be read by others (mode {stat.S_IMODE(mode):o}); "
            f"run: chmod 600 {path}"
        )
    return parse_keys(octets, path)


def parse_keys(octets: bytes, path: object) -> dict[str, str]:
    """Return the keys that the text of a key file holds; `path` is for the error.

    Raises
    ------
    ConfigError
        If it is not such a text.
    """
    try:
        found = json.loads(octets)
        needed = {"server_public", "driver_public", "driver_secret"}
        keys = {name: found[name] for name in needed | ({"server_secret"} & found.keys())}
        if all(isinstance(key, str) and _is_z85_key(key) for key in keys.values()):
            return keys
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise ConfigError(f"{path} is no zmqdist key file; make one with `zmqdist-master keygen FILE`")


def _is_z85_key(text: str) -> bool:
    try:
        return len(text) == 40 and len(z85.decode(text)) == 32
    except (KeyError, struct.error):  # no such character, or five that are no four bytes
        return False


class Roles:
    """Who may come in, and as what: the driver's key and the admitted workers' keys.

    `role` is asked once per message, so that a key withdrawn later is cut off although
    its connection lives.
    """

    def __init__(self, driver_public: str) -> None:
        self._roles = {driver_public: "driver"}
        self._refused = Notices()

    def callback(self, domain: str, key: bytes) -> bool:
        """Say whether a client with this public key (Z85) may connect."""
        allowed = key.decode() in self._roles
        if not allowed and (more := self._refused.due(time.monotonic())) is not None:
            log.warning("refused a connection with an unknown key%s", more)
        return allowed

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
    """Answers ZAP requests by `Roles`, with pyzmq's authenticator in a thread of its own."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], driver_public: str) -> None:
        super().__init__(driver_public)
        # The library would write client keys into the log at level DEBUG.
        quiet = logging.getLogger(f"{__name__}.zap")
        quiet.setLevel(logging.ERROR)
        self._authenticator = _Authenticator(context, log=quiet)
        self._authenticator.start()
        self._authenticator.configure_curve_callback(ZAP_DOMAIN.decode(), credentials_provider=self)

    def close(self) -> None:
        """Stop the authenticator's thread."""
        with contextlib.suppress(zmq.ZMQError):
            self._authenticator.stop()


class _Authenticator(ThreadAuthenticator):
    def curve_user_id(self, client_public_key: bytes) -> str:
        """Name the sender of each message by its public key, for `Door.role`."""
        return z85.encode(client_public_key).decode()
