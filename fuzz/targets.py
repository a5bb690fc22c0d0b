"""What is fuzzed: functions of one byte string that may refuse it, and do nothing else.

Each takes what a stranger, a faulty peer or a damaged disk controls. It may raise
`RemoteProtocolError` (a key file: `ConfigError`, a checkpoint: `CheckpointError`), which is caught
here; anything else is a finding. Frames of a message are joined by `SEPARATOR`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from zmq.utils import z85

from zmqdist import RowSparse
from zmqdist.checkpoint.store import MANIFEST, Store
from zmqdist.core import actions as act
from zmqdist.core import messages as m
from zmqdist.core.headers import to_header
from zmqdist.core.master_state import MasterState
from zmqdist.core.messages import Message
from zmqdist.core.worker_state import WorkerState
from zmqdist.errors import CheckpointError, ConfigError, RemoteProtocolError
from zmqdist.models.base import parameters_of
from zmqdist.models.delta import add
from zmqdist.net.door import Roles
from zmqdist.net.security import parse_keys
from zmqdist.staleness import BoundedStaleness, SoftSync, StaleSynchronous
from zmqdist.wire.apart import split_tree
from zmqdist.wire.codec import encode_array
from zmqdist.wire.frames import pack, unpack
from zmqdist.wire.leaves import first_nonfinite
from zmqdist.wire.plan import Look
from zmqdist.wire.tree import _Reader as Reader
from zmqdist.wire.tree import encode_tree

SEPARATOR = b"\n--\n"
MAX_BYTES = 1 << 22
"""Trees may decode to this; the fuzzer's own limit of memory lies above."""


def header(data: bytes) -> None:
    """The first frame of a message."""
    with contextlib.suppress(RemoteProtocolError):
        unpack([data])


def message(data: bytes) -> None:
    """A message with its arrays, decoded and looked through as the master does."""
    with contextlib.suppress(RemoteProtocolError):
        received = unpack(list(data.split(SEPARATOR)))
        look = Look()
        tree = received.decode(MAX_BYTES, look)
        assert first_nonfinite(tree) is None or not look.finite


def tree(data: bytes) -> None:
    """The description of a tree and its frames, without the message around it."""
    spec, *frames = data.split(SEPARATOR)
    for before in (b"", b"\n"):  # on a line of its own it is read apart
        whole = b'{"zmqdist":1,"kind":"heartbeat","session":1,' + before + b'"tree":' + spec + b"}"
        with contextlib.suppress(RemoteProtocolError):
            unpack([whole, *frames]).decode(MAX_BYTES)


def blosc(data: bytes) -> None:
    """One compressed frame under a right description."""
    spec = {"dict": [["w", {"array": {"dtype": "<f4", "shape": [60, 50], "blosc": "1"}}]]}
    whole = json.dumps({"zmqdist": 1, "kind": "heartbeat", "session": 1, "tree": spec}).encode()
    with contextlib.suppress(RemoteProtocolError):
        unpack([whole, data]).decode(MAX_BYTES)


def update(data: bytes) -> None:
    """An update that is added to a model, which it must fit or leave as it was."""
    parameters = parameters_of({"w": np.zeros((4, 3)), "n": 0})
    try:
        found = unpack(list(data.split(SEPARATOR))).decode(MAX_BYTES)
    except RemoteProtocolError:
        return
    try:
        add(parameters, found)
    except ValueError:  # UpdateError is one
        assert not parameters.arrays()["w"].any()
        assert parameters.scalars()["n"] == 0


def master(data: bytes) -> None:
    """A conversation: what any peer says to a master, one message per part.

    The first byte chooses the policy. Whatever comes in, the state may only decide.
    """
    policies = (BoundedStaleness(2, "requeue"), StaleSynchronous(1), SoftSync(1))
    policy = policies[data[0] % len(policies)] if data else policies[0]
    state = MasterState("run", policy, schema={}, lease_s=1.0)
    now = 0.0
    for number, part in enumerate([b"", *data[1:].split(SEPARATOR)]):
        now += 0.1
        message: Message = m.Begin(2)
        if number:
            try:
                message = unpack([part]).message
            except RemoteProtocolError:
                continue
        _perform(state, state.receive(b"peer%d" % (number % 3), message, now), now)
        _perform(state, state.tick(now), now)
    state.ledger.check_invariants()


def _perform(state: MasterState, actions: list[act.Action], now: float) -> None:
    for action in actions:
        if isinstance(action, act.Apply):
            report = state.buffered if state.policy.buffers else state.applied
            _perform(state, report(action, now), now)
        elif isinstance(action, act.Flush):
            state.flushed(action)
        elif isinstance(action, act.Publish):
            state.was_published(now, now)
        elif isinstance(action, act.Send):
            pack(action.message)


def worker(data: bytes) -> None:
    """A conversation: what a false master says to a worker, one message per part."""
    state = WorkerState(run="run", epoch=0, partition=0, attempt=1, worker="w")
    now = 0.0
    for part in data.split(SEPARATOR):
        now += 0.1
        with contextlib.suppress(RemoteProtocolError):
            message = unpack([part]).message
            for action in [*state.receive(message, now), *state.tick(now)]:
                if sent := getattr(action, "message", None):
                    pack(sent)


def key_file(data: bytes) -> None:
    """The text of a key file."""
    with contextlib.suppress(ConfigError):
        parse_keys(data, "a file")


def checkpoint(data: bytes) -> None:
    """A manifest and the files beside it; their checksums are right."""
    manifest, *files = data.split(SEPARATOR)
    with tempfile.TemporaryDirectory() as folder:
        store, path = Store(folder), Path(folder, "00000001")
        path.mkdir()
        told = {}
        for number, octets in enumerate(files):
            (path / f"{number}.npy").write_bytes(octets)
            digest = hashlib.sha256(octets).hexdigest()
            told[f"{number}.npy"] = {"bytes": len(octets), "sha256": digest}
        with contextlib.suppress(ValueError, RecursionError):
            content = json.loads(manifest)
            if isinstance(content, dict) and isinstance(content.get("files"), dict):
                content["files"] |= told
            text = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
            digest = hashlib.sha256(text).hexdigest()
            manifest = b'{"sha256":"%s","content":%s}' % (digest.encode(), text)
        (path / MANIFEST).write_bytes(manifest)
        with contextlib.suppress(CheckpointError):
            store.newest()
        store.close()


def door(data: bytes) -> None:
    """A client's public key at the door, as libzmq and the authenticator hand it over."""
    roles = Roles("x" * 40)
    roles.admit("y" * 40)
    key = z85.encode((data + bytes(32))[:32])
    assert not roles.callback("zmqdist", key)
    assert roles.role(key.decode()) is None


TARGETS: dict[str, Callable[[bytes], None]] = {
    one.__name__: one
    for one in (header, message, tree, blosc, update, master, worker, key_file, checkpoint, door)
}


_NAMES = {f.name for cls in Message.__subclasses__() for f in fields(cls)}
_KINDS = {cls.kind for cls in Message.__subclasses__()} | Reader().kinds.keys()
WORDS = sorted(
    {*_NAMES, *_KINDS, "zmqdist", "kind", "tree", "dtype", "shape", "blosc", "values", "csr"}
)
"""What the fuzzer may put into an input besides bytes of its own."""


def _texts(messages: list[Any]) -> list[bytes]:
    return [json.dumps(to_header(one)).encode() for one in messages]


def seeds(name: str) -> list[bytes]:
    """Return inputs that a target takes, for the fuzzer to start from."""
    rng = np.random.default_rng(0)
    smooth = np.repeat(np.arange(300, dtype="f4"), 10).reshape(60, 50)
    trees = [
        {"w": np.ones((4, 3)), "n": 1},
        {"w": RowSparse([0, 2], np.ones((2, 3)), (4, 3))},
        {"w": smooth, "list": [1, 2.5, None, True, "text", 1j, float("nan")]},
        {"t": (np.float32(0.5), np.zeros((0, 3)), np.zeros(()))},
        {"s": _sparse()},
        rng.normal(size=(9, 2)),
    ]
    encoded = [encode_tree(one, codec) for one in trees for codec in ("raw", "lz4", "zstd")]
    hello = m.Hello("run", 0, 0, 1, "w")
    up = [
        hello,
        m.Push(1, 0, 0),
        m.Push(1, 1, 0, empty=True),
        m.Pull(1, -1),
        m.Pull(0, -1, 5),
        m.Heartbeat(1),
        m.Finish(1, 2),
        m.Fail(1, 0, "gradient", "e", "t"),
        m.Status("run", 0),
        m.End("run", 0),
        m.Begin(3, "k"),
    ]
    down = [
        m.Welcome(1, 0, 5001, 0, [], False, 0, None, None, 1.0),
        m.Version("run", -1, 0, 0),
        m.Ack(1, 0, "applied", 1, 0, None),
        m.Go(1, 2),
        m.Pong(1, None),
        m.Rejoin(1),
        m.Finished(1, True, 2),
        m.Stop(1, "r"),
        m.Refused("r"),
    ]
    frames = {one.kind: _texts([one])[0] for one in [*up, *down]}
    made = {
        "header": list(frames.values()),
        "message": [SEPARATOR.join(map(bytes, pack(m.Push(1, 0, 0), one))) for one in encoded],
        "tree": [
            SEPARATOR.join([json.dumps(one.spec).encode(), *map(bytes, one.frames)])
            for one in encoded
        ],
        "blosc": [bytes(encode_array(smooth, codec)[1][0]) for codec in ("lz4", "zstd")],
        "master": [bytes([i]) + SEPARATOR.join(_texts(up)) for i in range(3)]
        + [bytes([i]) + SEPARATOR.join(_texts([hello, one])) for i in range(3) for one in up],
        "worker": [SEPARATOR.join(_texts(down)), *_texts(down)],
        "key_file": [
            json.dumps({"zmqdist_keys": 1, **dict.fromkeys(_KEYS, "a" * 40)}).encode(),
        ],
    }
    made["update"] = made["message"]
    made["door"] = [b"k" * 32]
    made["checkpoint"] = [_checkpoint()]
    return made[name]


def _checkpoint() -> bytes:
    """Return what the store writes of a small master."""
    spec, arrays = split_tree({"arrays": {"w": np.ones((4, 3))}, "policy": {"bound": 2}})
    state = MasterState("run", BoundedStaleness(2), schema={})
    facts = {"run": "run", "incarnation": 0, "version": 3, "starts": [0]}
    facts |= {"scalars": {"n": 1}, "master": state.state()}
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        store.write(spec, arrays, facts)
        store.close()
        path = Path(folder, "00000001")
        content = json.loads((path / MANIFEST).read_bytes())["content"]
        return SEPARATOR.join([json.dumps(content).encode(), (path / "0.npy").read_bytes()])


_KEYS = ("server_public", "driver_public", "driver_secret", "server_secret")


def _sparse() -> Any:
    return csr_array(np.eye(4))
