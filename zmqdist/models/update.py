"""The optional wrapper around what a gradient returns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zmqdist.core.report import MAX_NAME_BYTES, is_short
from zmqdist.errors import UpdateError
from zmqdist.wire.rows import RowSparse


@dataclass(frozen=True, init=False)
class Update:
    """An update with facts about it, for a gradient that wants to report them.

    Parameters
    ----------
    arrays : tree
        What the gradient would return without the wrapper: dicts, lists and tuples of
        arrays, `RowSparse`, scipy.sparse matrices, numbers, strings and None.
    examples : int, optional
        How many examples (words, rows) it was computed from. Default: the number of
        items read from the partition since the last update.
    metrics : mapping of str to float, optional
        Figures such as a training loss. `TrainResult.history` holds their means; those
        that are not finite are left out.
    halves : (float, float), optional
        For an update that is the mean of the gradients g1 and g2 of two halves of a batch:
        ``g1 . g2`` and ``||g1 - g2||^2 / 4``, from which policies measure the noise; only
        their ratio counts. `zmqdist.in_halves` fills them in.

    Raises
    ------
    UpdateError
        If `examples`, a metric or one of `halves` is no number, or a metric's name is longer
        than 100 bytes.
    """

    arrays: Any
    examples: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    halves: tuple[float, float] | None = None

    def __init__(
        self,
        arrays: Any,
        *,
        examples: int | None = None,
        metrics: Mapping[str, float] | None = None,
        halves: tuple[float, float] | None = None,
    ) -> None:
        try:
            count = None if examples is None else int(examples)
            figures = {str(name): float(value) for name, value in (metrics or {}).items()}
            dot_sq = None if halves is None else (float(halves[0]), float(halves[1]))
        except (TypeError, ValueError, AttributeError, IndexError) as error:
            raise UpdateError(
                f"Update(examples={examples!r:.60}, metrics={metrics!r:.60}, "
                f"halves={halves!r:.60}): {error}; expected a count and a dict of numbers, and two "
                "numbers as halves"
            ) from None
        if long := [name for name in figures if not is_short(name)]:
            raise UpdateError(
                f"Update(metrics=): the name {long[0]!r:.60} is too long; expected at most "
                f"{MAX_NAME_BYTES} bytes, so that reports stay small"
            )
        object.__setattr__(self, "arrays", arrays)
        object.__setattr__(self, "examples", count)
        object.__setattr__(self, "metrics", figures)
        object.__setattr__(self, "halves", dot_sq)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to send: None, zero, or nothing inside."""
        arrays = self.arrays
        if isinstance(arrays, np.ndarray):
            return arrays.size == 0
        plain = (dict, list, tuple, str, int, float, RowSparse)
        return arrays is None or (isinstance(arrays, plain) and not arrays)

    def finite_metrics(self) -> dict[str, float]:
        """Return the metrics that are finite."""
        return {name: value for name, value in self.metrics.items() if math.isfinite(value)}

    def finite_halves(self) -> tuple[float | None, float | None]:
        """Return the halves; None for both if they are not known or not finite."""
        known = self.halves is not None and all(map(math.isfinite, self.halves))
        return self.halves if known and self.halves is not None else (None, None)


def as_update(result: Any) -> Update:
    """Return what a gradient returned as an `Update`."""
    return result if isinstance(result, Update) else Update(result)
