"""CURVE keys: who holds which, and key files.

Three key pairs exist. The *server* pair names the master. The *driver* pair opens
and closes epochs. A *worker* pair is made anew for each `train()`, travels in the
task closure and only joins and pushes. No key ever shows in a `repr`.
"""

from __future__ import annotations

import json
import os
import stat
import struct
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from zmq.utils import z85

from zmqdist.errors import ConfigError

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
    for file in (path, client_path):  # before either is written: they have to fit each other
        if os.path.lexists(file):
            raise ConfigError(f"key file {file} exists already; name another or remove it first")
    for file, keys in ((path, {**client, "server_secret": server.secret}), (client_path, client)):
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
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
