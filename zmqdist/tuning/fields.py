"""Strict reading of a study file's tables: each error names the key, what was got and expected."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zmqdist.errors import ConfigError

MISSING: Any = object()
"""Default of a key that must be there."""


@dataclass(frozen=True)
class Kind:
    """What a value has to be: a description for people, and a test."""

    description: str
    fits: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


TEXT = Kind("a text", lambda v: isinstance(v, str) and v != "")
FLAG = Kind("true or false", lambda v: isinstance(v, bool))
NUMBER = Kind("a number", lambda v: _is_number(v) and math.isfinite(v))
POSITIVE = Kind("a number > 0", lambda v: _is_number(v) and 0 < v < math.inf)
COUNT = Kind("an integer >= 1", lambda v: _is_count(v, 1))
SEVERAL = Kind("an integer >= 2", lambda v: _is_count(v, 2))
SEED = Kind("an integer >= 0", lambda v: _is_count(v, 0))
BOUND = Kind('an integer >= 0 or "inf"', lambda v: v in ("inf", math.inf) or _is_count(v, 0))


def one_of(*names: str) -> Kind:
    """Return the kind of texts that are one of these."""
    return Kind("one of " + ", ".join(map(repr, names)), lambda v: v in names)


class Table:
    """One table of a study file, from which keys are taken until none may be left.

    Parameters
    ----------
    values : mapping
        A key with None counts as missing.
    where : str
        What to call it in errors, as ``digits.toml [grid]``.

    Raises
    ------
    ConfigError
        If it is no table.
    """

    def __init__(self, values: Any, where: str) -> None:
        if not isinstance(values, Mapping):
            raise ConfigError(f"{where} is {_shown(values)}; expected a table")
        self._values = {key: value for key, value in values.items() if value is not None}
        self._where = where
        self._known: list[str] = []

    def _take(self, key: str) -> Any:
        self._known.append(key)
        return self._values.pop(key, MISSING)

    def take(self, key: str, kind: Kind, default: Any = MISSING) -> Any:
        """Return the value of a key."""
        value = self._take(key)
        if value is MISSING:
            return self._default(key, kind.description, default)
        if not kind.fits(value):
            raise self.error(key, value, kind.description)
        return value

    def take_list(self, key: str, kind: Kind, default: Any = MISSING) -> list[Any]:
        """Return a list, also for a single value; never an empty one."""
        value = self._take(key)
        expected = f"{kind.description}, or a list of such"
        if value is MISSING:
            found: list[Any] = self._default(key, expected, default)
            return found
        values = list(value) if isinstance(value, Sequence) and not _is_text(value) else [value]
        if not values or not all(map(kind.fits, values)):
            raise self.error(key, value, expected)
        if len(set(values)) < len(values):
            raise ConfigError(f"{self._where}: {key} has a value twice: {value}")
        return values

    def take_axis(self, key: str, kind: Kind) -> list[Any]:
        """Return a list of numbers, also written as ``{ from = 0.01, to = 1, steps = 7 }``."""
        value = self._values.get(key)
        if not isinstance(value, Mapping):
            return self.take_list(key, kind)
        axis = Table(self._take(key), f"{self._where} {key}")
        low, high = axis.take("from", kind), axis.take("to", kind)
        steps = axis.take("steps", SEVERAL)
        axis.close()
        if low >= high:
            raise ConfigError(f"{self._where} {key}: from is {low}, to is {high}; expected a rise")
        return [float(f"{value:.4g}") for value in np.geomspace(low, high, steps)]

    def take_seeds(self, key: str) -> list[int]:
        """Return seeds, written as their count or as a list."""
        value = self._values.get(key, 1)
        if isinstance(value, list):
            return self.take_list(key, SEED)
        count = self.take(key, Kind("a count of seeds >= 1, or a list of integers", COUNT.fits), 1)
        return list(range(count))

    def table(self, key: str, default: Any = MISSING) -> Table:
        """Return a table in it."""
        value = self._take(key)
        if value is MISSING:
            value = self._default(key, "a table", default)
        return Table(value, f"{self._where} [{key}]")

    def rest(self) -> dict[str, Any]:
        """Return all keys that are left, for somebody else to check."""
        values, self._values = self._values, {}
        return values

    def close(self) -> None:
        """Refuse what is left."""
        for key, value in self._values.items():
            near = difflib.get_close_matches(key, self._known, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(
                f"{self._where}: unknown key {key!r} (value {_shown(value)}); expected "
                f"{', '.join(sorted(self._known))}{meant}"
            )

    def error(self, key: str, value: Any, expected: str) -> ConfigError:
        """Return the error about a value."""
        return ConfigError(f"{self._where}: {key} is {_shown(value)}; expected {expected}")

    def impossible(self, what: str, error: ConfigError) -> ConfigError:
        """Return the error about a combination of values."""
        return ConfigError(f"{self._where} has an impossible setting, {what}: {error}")

    def _default(self, key: str, expected: str, default: Any) -> Any:
        if default is MISSING:
            raise ConfigError(f"{self._where}: {key} is missing; expected {expected}")
        return default


def _is_text(value: Any) -> bool:
    return isinstance(value, str | bytes)


def _shown(value: Any) -> str:
    return f"{value!r:.80} ({type(value).__name__})"
