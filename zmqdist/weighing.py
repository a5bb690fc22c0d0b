"""What becomes of an update before it is applied: checked, clipped, corrected, weighed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from zmqdist.core.actions import Apply
from zmqdist.core.report import Totals
from zmqdist.core.staleness import Policy
from zmqdist.damping import RowDamping
from zmqdist.errors import UpdateError
from zmqdist.merge import Merge
from zmqdist.models.versions import Moved
from zmqdist.wire.leaves import first_nonfinite, scale_tree, tree_norm


class Weighing:
    """Turns updates into what is applied in their place; never changes the model.

    Parameters
    ----------
    policy : Policy
        It may transform updates.
    max_norm : float or None
        Updates with a larger L2 norm are scaled down to this one (gradient norm clipping).
    damping : RowDamping or None
        Weighs updates row by row, if any.
    totals : Totals
        Where updates that are scaled down to `max_norm` are counted.
    """

    def __init__(
        self,
        policy: Policy,
        max_norm: float | None,
        damping: RowDamping | None,
        totals: Totals,
    ) -> None:
        self._policy = policy
        self._max_norm = max_norm
        self._damping = damping
        self._totals = totals

    def checked(self, update: Any, *, finite: bool) -> Any:
        """Return an update that is finite and no longer than allowed.

        Parameters
        ----------
        update : tree of arrays
        finite : bool
            Whether somebody has seen already that all values are finite.

        Raises
        ------
        UpdateError
            It has NaN or infinite values.
        """
        if not finite:
            check_finite(update)
        if self._max_norm is None or (norm := tree_norm(update)) <= self._max_norm:
            return update
        self._totals.clipped += 1
        return scale_tree(update, self._max_norm / norm)

    def weighed(self, update: Any, action: Apply, base: Moved | None, version: int) -> Any:
        """Return what is applied in place of a checked update.

        Parameters
        ----------
        update : tree of arrays
        action : Apply
            Its weight and staleness.
        base : Moved or None
            What the model was where the update was computed, for policies that need it.
        version : int
            Of the model now.

        Raises
        ------
        UpdateError
            What the policy made of it has NaN or infinite values.
        """
        if self._policy.transforms:
            update = self._policy.transform(update, base)
            check_finite(update)
        if action.weight != 1.0:
            with np.errstate(over="ignore"):
                update = scale_tree(update, action.weight)
            if not 0 <= action.weight <= 1:
                check_finite(update, f" with weight {action.weight:g}")
        if self._damping is not None:
            update = self._damping.damp(update, version, action.tau)
        return update

    def merged(self, rule: Merge, updates: Sequence[Any]) -> Any:
        """Return what is applied in place of the weighed updates of a buffer.

        Raises
        ------
        UpdateError
            They cannot be merged, or come to more than a float holds.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            update = rule.merge(updates)
        if len(updates) > 1:
            check_finite(update, f" once {len(updates)} updates are merged")
        return update


def check_finite(update: Any, when: str = "") -> None:
    """Refuse what would spoil the model, before any of it is changed."""
    if (where := first_nonfinite(update)) is not None:
        raise UpdateError(
            f"{where} has NaN or infinite values{when}; the model is unchanged. Lower the learning "
            "rate, or leave such updates out in gradient (return None)"
        )
