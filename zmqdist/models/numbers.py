"""A worker's own progress on the numbers of a model that it trains in place.

As `zmqdist.models.progress` does for rows: the model's number is ``known + unsent``, and an
exchange sends the unsent part and takes in the master's value underneath it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

from zmqdist.models.base import Parameters, Scalar


class Numbers:
    """Tracks what a worker has done to the numbers of its model and not sent.

    Numbers that do not add up (`Parameters.adds_up`), bools, and those whose change the
    gradient yields itself go from the master to the worker only.

    Parameters
    ----------
    parameters : Parameters
        The worker's model, whose numbers are those that the master has.
    """

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self._known = {
            name: value
            for name, value in parameters.scalars().items()
            if parameters.adds_up(name) and not isinstance(value, bool)
        }
        self._under_way: dict[int, dict[str, Scalar]] = {}

    def take(
        self, step: int, *, yielded: Collection[str] = (), settled: bool = False
    ) -> dict[str, Scalar]:
        """Return the changes of the numbers, to be sent; they count as known from here on.

        A change that is not finite is none: the number was overwritten, not added to.

        Parameters
        ----------
        step : int
            The step that they are sent as.
        yielded : collection of str
            Names whose change the gradient has yielded.
        settled : bool, default=False
            The master has these changes from an earlier attempt: nothing is sent, and the
            model goes back to what is known.
        """
        for name in yielded:
            self._known.pop(name, None)
        changes = {n: change for n, change in self._unsent().items() if change}
        if settled:
            self._parameters.set({name: self._known[name] for name in changes})
            return {}
        for name, change in changes.items():
            self._known[name] += change
        self._under_way[step] = changes
        return changes

    def rebase(self, values: Mapping[str, Scalar], held: Iterable[int]) -> None:
        """Take in the master's values, keeping the unsent part on top.

        Parameters
        ----------
        values : mapping of str to number
        held : iterable of int
            Steps that these values and all later ones hold; other steps are under way.
        """
        for step in held:
            self._under_way.pop(step, None)
        unsent, numbers = self._unsent(), dict(values)
        for name in self._known.keys() & values.keys():
            under_way = (changes.get(name, 0) for changes in self._under_way.values())
            self._known[name] = values[name] + sum(under_way)
            numbers[name] = self._known[name] + unsent[name]
        self._parameters.set(numbers)

    def _unsent(self) -> dict[str, Scalar]:
        live = self._parameters.scalars()
        changes = {name: live[name] - known for name, known in self._known.items()}
        return {name: change if math.isfinite(change) else 0 for name, change in changes.items()}
