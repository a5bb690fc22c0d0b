"""Memory for large frames that is used again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


class Pool:
    """Buffers of updates that have arrived, kept for those to come.

    Fresh memory of some megabytes costs more than the copy into it: the system clears it
    page by page, and takes it back when it is freed. Any two threads may use a pool.

    Attributes
    ----------
    KEPT : int
        Buffers kept at most.
    LARGE_BYTES : int
        What is smaller is not kept: the allocator does well with it.
    """

    KEPT = 4
    LARGE_BYTES = 1 << 18

    def __init__(self) -> None:
        self._free: deque[NDArray[np.uint8]] = deque(maxlen=self.KEPT)

    def take(self, nbytes: int) -> NDArray[np.uint8]:
        """Return `nbytes` bytes of whatever content."""
        for _ in range(len(self._free)):
            try:
                buffer = self._free.popleft()
            except IndexError:
                break
            if nbytes <= buffer.size <= 2 * nbytes:
                return buffer[:nbytes]
            self._free.append(buffer)
        return np.empty(nbytes, np.uint8)

    def give(self, frames: Iterable[bytes | memoryview]) -> None:
        """Take back the buffers of frames that nobody reads any more."""
        seen = set[int]()
        for frame in frames:
            buffer = frame.obj if isinstance(frame, memoryview) else None
            if isinstance(buffer, np.ndarray) and id(buffer) not in seen:
                seen.add(id(buffer))
                whole = buffer if buffer.base is None else buffer.base
                if isinstance(whole, np.ndarray) and whole.nbytes >= self.LARGE_BYTES:
                    self._free.append(whole)
