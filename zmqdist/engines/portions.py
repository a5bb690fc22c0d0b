"""A partition on its way to a worker process: in portions, so that nobody waits for all of it.

To pickle a large partition in one piece keeps Python's interpreter lock, which the master
needs, for as long as that takes; and the worker would compute nothing meanwhile.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO, cast

import cloudpickle

from zmqdist.errors import ConfigError

PORTION_BYTES = 1 << 16
"""About so much is pickled in one go, unless a single item is larger."""


def portions(data: Iterable[Any]) -> Iterator[bytes]:
    """Pickle a partition: a list or a tuple bit by bit, anything else as it is.

    What several items refer to is pickled once.

    Yields
    ------
    bytes
        For `Arriving`.

    Raises
    ------
    Exception
        An item cannot be pickled.
    """
    if type(data) not in (list, tuple):
        yield cloudpickle.dumps(data, protocol=5)  # it may be endless, or open a file over there
        return
    items = cast(Sequence[Any], data)
    stream = io.BytesIO()
    pickler = cloudpickle.Pickler(stream, protocol=5)
    at, count = 0, 1
    while at < len(items):
        pickler.dump(items[at : at + count])
        octets = stream.getvalue()
        stream.seek(0)
        stream.truncate()
        yield octets
        at += count
        count = 2 * count if 2 * len(octets) <= PORTION_BYTES else max(1, count // 2)


class Arriving(Iterator[Any]):
    """The items of a partition, as they come.

    Parameters
    ----------
    orders : file
        The pipe: what `portions` yields, each pickled once more, and None at the end.
    """

    def __init__(self, orders: BinaryIO) -> None:
        self._orders = orders
        self._octets = io.BytesIO()
        # One for all portions, since it knows what came before; they are from our own parent.
        self._unpickler = pickle.Unpickler(self)  # noqa: S301
        self._items: Iterator[Any] = iter(())
        self._over = False

    def read(self, size: int) -> bytes:
        """Read from the portion at hand; for the unpickler."""
        return self._octets.read(size)

    def readline(self) -> bytes:
        """Read a line from it; for the unpickler."""
        return self._octets.readline()

    def _fetch(self) -> bool:
        try:
            octets = None if self._over else pickle.load(self._orders)  # noqa: S301 - as above
        except (EOFError, pickle.UnpicklingError):
            # Our parent died. No gradient failed, so that nobody is to be told one did.
            raise SystemExit("the driver ended in the midst of a partition") from None
        self._over = octets is None
        self._octets = io.BytesIO(octets or b"")
        return not self._over

    def __next__(self) -> Any:
        """Return the next item; waits for it.

        Raises
        ------
        ConfigError
            It cannot be unpickled here.
        """
        for item in self._items:
            return item
        if not self._fetch():
            raise StopIteration
        try:
            self._items = iter(self._unpickler.load())
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise ConfigError(
                f"an item cannot be unpickled in the worker process: {what}"
            ) from error
        return next(self._items)

    def drain(self) -> None:
        """Pass over what nobody wants, so that the next order can be read."""
        while self._fetch():
            pass
