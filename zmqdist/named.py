"""Functions named on a command line or in a file, as ``pkg.mod:function``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from zmqdist.errors import ConfigError


def load_function(name: str, option: str) -> Callable[..., Any]:
    """Import what a name stands for.

    Parameters
    ----------
    name : str
        ``pkg.mod:function``.
    option : str
        What gave the name, for errors.

    Raises
    ------
    ConfigError
        There is no such module or function.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise ConfigError(f"{option} is {name!r}; expected pkg.mod:function")
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except ImportError as error:
        raise ConfigError(
            f"{option} {name}: cannot import {module_name!r}: {error}; run this where Python finds "
            "the module, or set PYTHONPATH"
        ) from error
    except AttributeError as error:
        raise ConfigError(f"{option} {name}: {error}") from None
    if not callable(found):
        raise ConfigError(f"{option} {name} is a {type(found).__name__}; expected a function")
    function: Callable[..., Any] = found
    return function
