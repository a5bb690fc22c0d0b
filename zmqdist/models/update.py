"""The optional wrapper around what a gradient returns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

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

    Raises
    ------
    UpdateError
        If `examples` or a metric is no number.
    """

    arrays: Any
    examples: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __init__(
        self,
        arrays: Any,
        *,
        examples: int | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        try:
            count = None if examples is None else int(examples)
            figures = {str(name): float(value) for name, value in (metrics or {}).items()}
        except (TypeError, ValueError, AttributeError) as error:
            raise UpdateError(
                f"Update(examples={examples!r:.60}, metrics={metrics!r:.60}): {error}; expected a "
                "count and a dict of numbers"
            ) from None
        object.__setattr__(self, "arrays", arrays)
        object.__setattr__(self, "examples", count)
        object.__setattr__(self, "metrics", figures)

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


def as_update(result: Any) -> Update:
    """Return what a gradient returned as an `Update`."""
    return result if isinstance(result, Update) else Update(result)
