"""A tree without its arrays, and the arrays: for files, which keep them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zmqdist.errors import RemoteProtocolError, UpdateError
from zmqdist.wire.codec import Memory
from zmqdist.wire.plan import Frames, Look
from zmqdist.wire.tree import Build, _Reader, _Writer


def split_tree(tree: Any) -> tuple[Any, list[NDArray[Any]]]:
    """Take the arrays out of a tree, as they are.

    Returns
    -------
    spec : object
        As JSON values, in the form of `zmqdist.wire.tree`; ``{"number": n}`` stands for
        the n-th array.
    arrays : list of ndarray

    Raises
    ------
    UpdateError
        If something in the tree is none of what a tree holds.
    """
    splitter = _Splitter()
    return splitter.write(tree, "state", 0), splitter.arrays


def join_tree(spec: Any, arrays: Sequence[NDArray[Any]]) -> Any:
    """Return the tree that `split_tree` took apart.

    Raises
    ------
    RemoteProtocolError
        If the spec is malformed.
    """
    return _Joiner(arrays).plan(spec, 0)(Frames([], Look()))


class _Splitter(_Writer):
    def __init__(self) -> None:
        super().__init__("raw", Memory())
        self.arrays: list[NDArray[Any]] = []

    def _array(self, array: Any, path: str, *, given: bool = False) -> dict[str, Any]:
        if array.dtype.kind not in "biufc":
            raise UpdateError(f"{path} is an array of {array.dtype}; expected numbers")
        self.arrays.append(np.asarray(array))
        return {"number": len(self.arrays) - 1}


class _Joiner(_Reader):
    def __init__(self, arrays: Sequence[NDArray[Any]]) -> None:
        super().__init__()
        self._arrays = arrays

    def _array(self, entry: Any, expansion: int = 1) -> Build:
        number = entry.get("number") if isinstance(entry, Mapping) else None
        if type(number) is not int or not 0 <= number < len(self._arrays):
            raise RemoteProtocolError(f"tree names array {number!r} of {len(self._arrays)}")
        index: int = number
        return lambda _: self._arrays[index]
