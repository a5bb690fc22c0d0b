"""What a worker's time went for, from one push to the next and to the end of the partition."""

from __future__ import annotations

from collections.abc import Callable

from zmqdist.core.phases import Wait

_FIELDS = {what: f"wait_{what}_s" for what in Wait}


class Spent:
    """Sums up the waits since the last push; what nobody measured is the rest.

    Parameters
    ----------
    now : float
    take_travel_s : callable
        Returns how long updates were on their way that were answered since its last call.
    """

    def __init__(self, now: float, take_travel_s: Callable[[], float]) -> None:
        self._take_travel_s = take_travel_s
        self.restart(now)

    def restart(self, now: float) -> None:
        """Begin anew: what was before is for no push."""
        self._since = now
        self._waited_s = dict.fromkeys(_FIELDS.values(), 0.0)

    def waited(self, what: Wait, seconds: float) -> None:
        """Note a wait."""
        self._waited_s[_FIELDS[what]] += seconds

    def take(self, now: float, compute_s: float, encode_s: float) -> dict[str, float]:
        """Return the times of a `Push` or a `Finish`, and begin anew.

        Parameters
        ----------
        now : float
        compute_s, encode_s : float
            What was measured elsewhere since the last push, in seconds.
        """
        times = self._waited_s
        times["encode_s"] = encode_s
        times["other_s"] = max(0.0, now - self._since - compute_s - sum(times.values()))
        times["travel_s"] = self._take_travel_s()
        self.restart(now)
        return {name: round(seconds, 6) for name, seconds in times.items()}
