"""The checks that options of policies share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from zmqdist.errors import ConfigError

ON_STALE = ("reject", "requeue")
"""What may become of an update that is turned down."""


def count(who: str, name: str, value: int, least: int = 0) -> int:
    """Return an integer option, at least so large."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{who}: {name} is {value!r}; expected an integer >= {least}")
    return value


def positive(who: str, name: str, value: float, unit: str = "a number") -> float:
    """Return a finite option > 0."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value < math.inf:
        raise ConfigError(f"{who}: {name} is {value!r}; expected {unit} > 0")
    return value


def choice(who: str, name: str, value: str, options: Iterable[str]) -> str:
    """Return an option that is one of some words."""
    words = [*map(repr, options)]
    if repr(value) not in words:
        listed = " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
        raise ConfigError(f"{who}: {name} is {value!r}; expected {listed}")
    return value


def fields(who: object, state: Mapping[str, Any], *names: str) -> list[Any]:
    """Return the fields of a saved state, which must be these."""
    if set(state) != set(names):
        raise ConfigError(
            f"this is no state of {who!r}: it has {', '.join(map(str, state)) or 'nothing'}; "
            f"expected {', '.join(names)}"
        )
    return [state[name] for name in names]
