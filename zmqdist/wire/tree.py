"""A user's update or a model version <-> a JSON-able spec and a list of buffers.

Owns what a tree is: dicts, lists and tuples with arrays, ``RowSparse``, scipy
sparse matrices, numbers, strings and None as leaves. Numbers and strings live in
the spec; arrays are coded by `zmqdist.wire.codec` and refer to frames in order.

In a spec, None, booleans, integers, finite floats, strings and lists stand for
themselves. Everything else is an object with one key that names its kind:
``array``, ``rows``, ``half``, ``scipy``, ``scalar``, ``float``, ``complex``, ``dict``,
``tuple``.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zmqdist.errors import RemoteProtocolError, UpdateError
from zmqdist.wire.codec import Memory, encode_array
from zmqdist.wire.leaves import is_dict, is_scipy
from zmqdist.wire.lossy import Half
from zmqdist.wire.plan import Buffer, Frames, Look, check_entry, decode_array, plan_array
from zmqdist.wire.rows import RowSparse, canonical_rows

MAX_DEPTH = 64
MAX_LEAVES = 100_000
# What one index of these formats becomes: Python lists and dicts instead of array elements.
_EXPANSION = {"lil": 32, "dok": 32}
_COMPRESSED = ("csr", "csc", "bsr")
_FORMATS = (*_COMPRESSED, "coo", "dia", *_EXPANSION)


class Encoded(NamedTuple):
    """An encoded tree: JSON-able `spec`, buffers to send behind it, bytes before and after."""

    spec: Any
    frames: list[Buffer]
    decoded_bytes: int
    encoded_bytes: int


def encode_tree(
    tree: Any, codec: str = "auto", memory: Memory | None = None, *, given: bool = False
) -> Encoded:
    """Encode a tree; the frames share no memory with it, unless that is given away.

    Parameters
    ----------
    tree : dict, list, tuple or leaf
        Keys are str, int or bool. NamedTuples and dict subclasses arrive as plain
        tuples and dicts, numpy subclasses as ndarrays.
    codec, memory
        As in ``encode_array``.
    given : bool, default=False
        Nobody will change the `RowSparse` in it any more whose values are not views.

    Raises
    ------
    UpdateError
        If something in the tree cannot travel; the message names its path.
    """
    writer = _Writer(codec, Memory() if memory is None else memory, given)
    spec = writer.write(tree, "update", 0)
    encoded_bytes = sum(memoryview(frame).nbytes for frame in writer.frames)
    return Encoded(spec, writer.frames, writer.decoded_bytes, encoded_bytes)


def decode_tree(spec: Any, frames: Sequence[Buffer], *, max_bytes: int) -> Any:
    """Decode what ``encode_tree`` made: `plan_tree` and `Plan.decode` in one."""
    return plan_tree(spec).decode(list(frames), max_bytes=max_bytes)


Build = Callable[[Frames], Any]
"""Makes a part of a tree from the frames of the whole."""


class Plan(NamedTuple):
    """A checked spec: how many frames and bytes it takes, and what builds the tree."""

    frames: int
    decoded_bytes: int
    build: Build

    def decode(self, frames: list[Buffer], *, max_bytes: int, look: Look | None = None) -> Any:
        """Build the tree; its arrays are writable and nobody else's.

        Parameters
        ----------
        frames : list of bytes or memoryview
            All frames of the tree and no others. They belong to the tree from here on and
            are taken out of the list, so that array and frames need less memory together.
        max_bytes : int
            Limit for the arrays of the result together, checked before any is made.
        look : Look, optional
            Told of each float in the tree.

        Raises
        ------
        RemoteProtocolError
            If the tree is too large, does not fit the frames, or a frame is corrupt.
        UpdateError
            If the tree holds a scipy matrix and scipy is not installed here.
        """
        if self.decoded_bytes > max_bytes:
            size = self.decoded_bytes
            raise RemoteProtocolError(f"tree decodes to {size} bytes; expected at most {max_bytes}")
        if self.frames != len(frames):
            raise RemoteProtocolError(f"tree of {self.frames} frames came with {len(frames)}")
        look = Look() if look is None else look
        look.decoded_bytes += self.decoded_bytes
        with np.errstate(all="ignore"):  # of the look
            return self.build(Frames(frames, look))


def plan_tree(spec: Any) -> Plan:
    """Check a spec before a byte is decoded.

    Parameters
    ----------
    spec : object
        The spec as it came out of the JSON header.

    Raises
    ------
    RemoteProtocolError
        If the spec is malformed.
    """
    reader = _Reader()
    build = reader.plan(spec, 0)
    return Plan(reader.used, reader.decoded_bytes, build)


class _Writer:
    def __init__(self, codec: str, memory: Memory, given: bool = False) -> None:
        self.codec = codec
        self.given = given
        self.memory = memory
        self.frames: list[Buffer] = []
        self.decoded_bytes = 0
        self.leaves = 0

    def write(self, tree: Any, path: str, depth: int) -> Any:
        self.leaves += 1
        if depth > MAX_DEPTH or self.leaves > MAX_LEAVES:
            limits = f"{MAX_DEPTH} levels or {MAX_LEAVES} entries"
            raise UpdateError(f"{path}: more than {limits}; put numbers into arrays")
        if is_dict(tree):
            return {"dict": [self._item(k, v, path, depth) for k, v in tree.items()]}
        if isinstance(tree, (list, tuple)):
            parts = [self.write(v, f"{path}[{i}]", depth + 1) for i, v in enumerate(tree)]
            return parts if isinstance(tree, list) else {"tuple": parts}
        if isinstance(tree, RowSparse):
            rows = self._array(tree.rows, f"{path}: rows")
            given = self.given and tree.values.flags.owndata
            return {"rows": [list(tree.shape), rows, self._array(tree.values, path, given=given)]}
        if isinstance(tree, np.ndarray) and not isinstance(tree, np.ma.MaskedArray):
            return {"array": self._array(tree, path)}
        if isinstance(tree, Half):
            array = tree.values.values if isinstance(tree.values, RowSparse) else tree.values
            self.decoded_bytes += (np.dtype(tree.dtype).itemsize - 2) * array.size
            return {"half": [tree.dtype, self.write(tree.values, path, depth + 1)]}
        if is_scipy(tree):
            return {"scipy": self._scipy(tree, path)}
        return _write_scalar(tree, path)

    def _item(self, key: Any, value: Any, path: str, depth: int) -> list[Any]:
        if not isinstance(key, (str, int)):
            raise UpdateError(
                f"{path} has a key {key!r} of type {type(key).__name__}; expected str or int"
            )
        plain = key if isinstance(key, bool) else str(key) if isinstance(key, str) else int(key)
        return [plain, self.write(value, f"{path}[{key!r}]", depth + 1)]

    def _array(self, array: Any, path: str, *, given: bool = False) -> dict[str, Any]:
        try:
            entry, frames = encode_array(
                array, self.codec, memory=self.memory, name=path, given=given
            )
        except UpdateError as err:
            raise UpdateError(f"{path}: {err}") from None
        self.frames += frames
        self.decoded_bytes += array.nbytes
        return entry

    def _scipy(self, matrix: Any, path: str) -> list[Any]:
        kind = "array" if isinstance(matrix, sys.modules["scipy.sparse"].sparray) else "matrix"
        parts = matrix.tocsr() if matrix.format in _EXPANSION else matrix
        if parts.format == "dia":
            arrays = [parts.data, parts.offsets]
        elif parts.format == "coo":
            arrays = [parts.data, *parts.coords]
        else:
            arrays = [parts.data, parts.indices, parts.indptr]
        entries = [self._array(array, path) for array in arrays]
        return [matrix.format, kind, [int(n) for n in matrix.shape], entries]


def _write_scalar(leaf: Any, path: str) -> Any:
    if leaf is None or isinstance(leaf, bool):
        return leaf
    if isinstance(leaf, str):
        return str(leaf)
    if isinstance(leaf, np.generic):
        try:
            entry, frames = encode_array(np.asarray(leaf), "raw")
        except UpdateError as err:
            raise UpdateError(f"{path}: {err}") from None
        return {"scalar": [entry["dtype"], bytes(frames[0]).hex()]}
    if isinstance(leaf, int):
        return int(leaf)
    if isinstance(leaf, float):
        return float(leaf) if math.isfinite(leaf) else {"float": repr(float(leaf))}
    if isinstance(leaf, complex):
        return {"complex": repr(complex(leaf))}
    raise UpdateError(
        f"{path} is a {type(leaf).__name__}, which cannot be sent; expected arrays, RowSparse, "
        "scipy sparse matrices, numbers, strings or None; convert it with np.asarray"
    )


class _Reader:
    """Checks a whole spec before a byte is decoded, and leaves a function that builds the tree."""

    def __init__(self) -> None:
        self.used = 0
        self.decoded_bytes = 0
        self.leaves = 0
        self.kinds: dict[str, Callable[[Any, int], Build]] = {
            "array": lambda body, _: self._array(body),
            "rows": lambda body, _: self._rows(body),
            "half": lambda body, depth: self._half(body, depth),
            "scipy": lambda body, _: self._scipy(body),
            "scalar": lambda body, _: _read_scalar(body),
            "float": lambda body, _: _read_number(float, body),
            "complex": lambda body, _: _read_number(complex, body),
            "dict": self._dict,
            "tuple": self._tuple,
        }

    def plan(self, spec: Any, depth: int) -> Build:
        self.leaves += 1
        _require(depth <= MAX_DEPTH, f"tree has more than {MAX_DEPTH} levels")
        _require(self.leaves <= MAX_LEAVES, f"tree has more than {MAX_LEAVES} entries")
        if isinstance(spec, list):
            return self._list(spec, depth)
        if isinstance(spec, Mapping):
            _require(len(spec) == 1, f"tree entry has {len(spec)} keys; expected one")
            ((kind, body),) = spec.items()
            _require(kind in self.kinds, "tree entry is of an unknown kind")
            return self.kinds[kind](body, depth)
        known = spec is None or type(spec) in (bool, int, str)
        known = known or (type(spec) is float and math.isfinite(spec))
        _require(known, f"tree holds a {type(spec).__name__} that JSON does not have")
        return lambda frames: spec

    def _list(self, body: Any, depth: int) -> Build:
        _require(isinstance(body, list), "tree has a sequence that is not a list")
        parts = [self.plan(part, depth + 1) for part in body]
        return lambda frames: [build(frames) for build in parts]

    def _tuple(self, body: Any, depth: int) -> Build:
        build = self._list(body, depth)
        return lambda frames: tuple(build(frames))

    def _dict(self, body: Any, depth: int) -> Build:
        _require(isinstance(body, list), "tree has a dict that is not a list of items")
        parts: dict[Any, Build] = {}
        for item in body:
            _require(isinstance(item, list) and len(item) == 2, "tree has a dict item of no pair")
            key, value = item
            _require(type(key) in (str, int, bool), "tree has a dict key that is no str or int")
            _require(key not in parts, "tree has a dict key twice")
            parts[key] = self.plan(value, depth + 1)
        return lambda frames: {key: build(frames) for key, build in parts.items()}

    def _array(self, entry: Any, expansion: int = 1) -> Build:
        plan = plan_array(entry)
        self.decoded_bytes += plan.nbytes * expansion
        start, stop = self.used, self.used + plan.frames
        self.used = stop
        return lambda frames: plan.decode(frames.take(start, stop), frames.look, writable=True)

    def _rows(self, body: Any) -> Build:
        _require(isinstance(body, list) and len(body) == 3, "tree has malformed rows")
        shape = _read_shape(body[0])
        rows, values = self._array(body[1]), self._array(body[2])

        def build(frames: Frames) -> RowSparse:
            numbers = rows(frames)
            sound = numbers.ndim == 1 and numbers.dtype.kind == "i"
            sound = sound and canonical_rows(numbers, shape[0])
            _require(sound, f"row numbers of RowSparse {shape} are out of order or out of bounds")
            try:
                return RowSparse(numbers, values(frames), shape)
            except ValueError as err:
                raise RemoteProtocolError(str(err)) from err

        return build

    def _half(self, body: Any, depth: int) -> Build:
        _require(isinstance(body, list) and len(body) == 2, "tree has a malformed half")
        dtype, inner = body
        _require(dtype in ("<f4", "<f8"), "half is of a dtype that we do not send")
        plain = isinstance(inner, Mapping) and set(inner) in ({"array"}, {"rows"})
        _require(plain, "half of something that is no array")
        before = self.decoded_bytes
        build = self.plan(inner, depth + 1)
        self.decoded_bytes += (self.decoded_bytes - before) * np.dtype(dtype).itemsize // 2

        def widen(frames: Frames) -> Any:
            part = build(frames)
            _require(part.dtype == np.float16, f"half of {part.dtype}")
            if isinstance(part, RowSparse):
                return RowSparse(part.rows, part.values.astype(dtype), part.shape)
            return part.astype(dtype)

        return widen

    def _scipy(self, body: Any) -> Build:
        _require(isinstance(body, list) and len(body) == 4, "tree has a malformed scipy matrix")
        form, kind, size, entries = body
        _require(isinstance(form, str) and form in _FORMATS, "scipy format is not one we send")
        _require(kind in ("array", "matrix"), "scipy kind is not array or matrix")
        shape = _read_shape(size)
        _require(isinstance(entries, list), "tree has a malformed scipy matrix")
        count = 2 if form == "dia" else 1 + len(shape) if form == "coo" else 3
        _require(len(entries) == count, f"scipy {form} has {len(entries)} parts, not {count}")
        parts = [self._array(entry, _EXPANSION.get(form, 1)) for entry in entries]
        return lambda frames: _build_scipy(form, kind, shape, [part(frames) for part in parts])


def _build_scipy(form: str, kind: str, shape: tuple[int, ...], parts: list[Any]) -> Any:
    try:
        sparse: Any = importlib.import_module("scipy.sparse")
    except ImportError as err:
        raise UpdateError("the tree holds a scipy sparse matrix: pip install scipy") from err
    data, *index = parts
    _require(all(part.dtype.kind == "i" for part in index), "scipy indices are no integers")
    base = "csr" if form in _EXPANSION else form
    contents = (data, tuple(index)) if base == "coo" else (data, *index)
    try:
        made = getattr(sparse, f"{base}_{kind}")(contents, shape=shape)
        if base in _COMPRESSED:
            # The full check skips indptr when that ends in 0, and wraps: C code would crash.
            made.check_format(full_check=True)
            _require(bool((made.indptr[1:] >= made.indptr[:-1]).all()), "scipy indptr goes down")
        if base == "dia":
            inside = (made.offsets > -made.shape[0]) & (made.offsets < made.shape[1])
            _require(bool(inside.all()), "scipy dia has offsets out of bounds")
        return made.asformat(form)
    except (ValueError, TypeError, IndexError, OverflowError, AttributeError) as err:
        raise RemoteProtocolError(f"scipy {form} of shape {shape} is malformed: {err}") from err


def _read_shape(shape: Any) -> tuple[int, ...]:
    sound = isinstance(shape, list) and 0 < len(shape) <= 32
    _require(sound and all(type(n) is int and 0 <= n < 1 << 62 for n in shape), "malformed shape")
    return tuple(shape)


def _read_number(kind: type[complex], body: Any) -> Build:
    _require(isinstance(body, str), f"tree has a malformed {kind.__name__}")
    try:
        value = kind(body)
    except ValueError as err:
        raise RemoteProtocolError(f"tree has a malformed {kind.__name__}") from err
    return _looked_at(value, np.asarray(value))


def _read_scalar(body: Any) -> Build:
    sound = isinstance(body, list) and len(body) == 2 and isinstance(body[1], str)
    _require(sound, "tree has a malformed numpy scalar")
    name, digits = body
    entry = {"dtype": name, "shape": []}
    check_entry(entry)
    try:
        value = decode_array(entry, [bytes.fromhex(digits)])
    except ValueError as err:
        raise RemoteProtocolError("tree has a malformed numpy scalar") from err
    return _looked_at(value[()], value)


def _looked_at(scalar: Any, array: NDArray[Any]) -> Build:
    def build(frames: Frames) -> Any:
        frames.look.at(array.reshape(1))
        return scalar

    return build


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise RemoteProtocolError(message)
