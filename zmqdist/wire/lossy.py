"""Codecs that round: fewer bits of mantissa, or float16 on the way.

What they cut off is for the sender to keep: `zmqdist.models.feedback`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zmqdist.errors import ConfigError
from zmqdist.wire.bitround import bitround
from zmqdist.wire.codec import CODECS
from zmqdist.wire.rows import RowSparse

_LARGEST = 65504.0
"""Largest number of float16."""


@dataclass(frozen=True)
class Half:
    """A leaf of a tree that travels as float16 and arrives in the dtype it had.

    Attributes
    ----------
    values : ndarray or RowSparse
        Of float16.
    dtype : str
        ``"<f4"`` or ``"<f8"``.
    """

    values: NDArray[np.float16] | RowSparse
    dtype: str


class Rounding(Protocol):
    """A rule by which float32 and float64 numbers are rounded."""

    def round(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return what arrives, in the same dtype; fresh."""
        ...

    def leaf(self, rounded: NDArray[Any] | RowSparse) -> Any:
        """Return the leaf to be sent for what `round` returned."""
        ...


@dataclass(frozen=True)
class BitRound:
    """Keeps so many bits of mantissa, see `zmqdist.wire.bitround`."""

    keep_bits: int

    def round(self, values: NDArray[Any]) -> NDArray[Any]:
        """Round each number to the nearest one with `keep_bits` bits of mantissa."""
        return bitround(values, self.keep_bits)

    def leaf(self, rounded: NDArray[Any] | RowSparse) -> Any:
        """Return it as it is: the zeros at its end cost next to nothing once compressed."""
        return rounded


@dataclass(frozen=True)
class Float16:
    """Half the bytes: 10 bits of mantissa, and numbers below 3e-8 become 0."""

    def round(self, values: NDArray[Any]) -> NDArray[Any]:
        """Round each number to the nearest float16; the largest stands for what is larger."""
        clipped = np.clip(values, -_LARGEST, _LARGEST)
        np.copyto(clipped, values, where=np.isinf(values))  # for the master to refuse
        back: NDArray[Any] = clipped.astype(np.float16).astype(values.dtype)
        return back

    def leaf(self, rounded: NDArray[Any] | RowSparse) -> Any:
        """Return it as float16: nothing is lost any more."""
        dtype = rounded.dtype.newbyteorder("<").str
        if isinstance(rounded, RowSparse):
            values = rounded.values.astype(np.float16)
            return Half(RowSparse(rounded.rows, values, rounded.shape), dtype)
        return Half(rounded.astype(np.float16), dtype)


def parse_codec(codec: str) -> tuple[str, Rounding | None]:
    """Split a codec into how arrays are compressed and how they are rounded before.

    Parameters
    ----------
    codec : str
        One of ``CODECS``, ``"bitround:K"`` or ``"float16"``.

    Raises
    ------
    ConfigError
        If it is none of these.
    """
    if codec in CODECS:
        return codec, None
    if codec == "float16":
        return "auto", Float16()
    found = re.fullmatch(r"bitround:(\d{1,2})", codec) if isinstance(codec, str) else None
    if found is not None and 1 <= int(found[1]) <= 51:
        return "auto", BitRound(int(found[1]))
    raise ConfigError(
        f"codec is {codec!r}; expected one of {', '.join(CODECS)}, or to lose precision float16 or "
        "bitround:K with 1 to 51 bits of mantissa, such as bitround:7"
    )
