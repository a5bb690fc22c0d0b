"""A model's structure without its arrays: how a model gets to the workers, once.

The structure is all that is not a parameter: classes, vocabulary, settings.
Arrays are left out by name and come later, with the first version.

Unpickling runs code, so these bytes may only travel where code may travel: in
the closure that Spark authenticates, or through a pipe to a child process.
Never load bytes that came from a socket.
"""

from __future__ import annotations

import inspect
import io
import pickle
from collections.abc import Iterator
from types import CodeType, FunctionType, MethodType
from typing import Any

import cloudpickle
import numpy as np
from numpy.typing import NDArray

from zmqdist.errors import ConfigError
from zmqdist.models.base import Parameters

_TAG = "array"


def dump_structure(
    model: Any, parameters: Parameters, *extras: Any, references: list[Any] | None = None
) -> bytes:
    """Pickle a model without the arrays of its parameters.

    For Spark's authenticated closure or a pipe to a child process only.

    Parameters
    ----------
    model : object
        The user's model.
    parameters : Parameters
        Its parameters; their arrays are left out, also where `extras` refer to them.
    *extras : object
        What travels along: the gradient function, the configuration.
        Functions of ``__main__`` go by value.
    references : list, optional
        Gets what is pickled as a reference only: Spark's broadcast variables, which an
        executor has only if they are in the closure that Spark itself pickles.

    Raises
    ------
    ConfigError
        Something cannot be pickled; the message names the part and what in it.
    """
    try:
        return _dump((model, *extras), parameters, references)
    except Exception as error:  # pickling runs the code of any class
        raise _explained(model, parameters, extras, error) from error


def load_structure(payload: bytes) -> tuple[Any, ...]:
    """Return (model, *extras) from `dump_structure`; the model's arrays are zeros.

    Runs code from `payload`: never for bytes that came from a socket.

    Raises
    ------
    ConfigError
        A module that the parts need is not installed here.
    """
    try:
        parts: tuple[Any, ...] = _Unpickler(io.BytesIO(payload)).load()
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the model or gradient needs the module {error.name!r}, which this worker cannot "
            "import; install it on the workers or send it along (SparkContext.addPyFile)"
        ) from error
    return parts


class _Pickler(cloudpickle.Pickler):
    def __init__(self, file: io.BytesIO, parameters: Parameters) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        derived = {f"derived {n}": array for n, array in enumerate(parameters.derived())}
        # this dict also holds the arrays, so that no id is given out twice
        self._arrays = derived | parameters.arrays()
        self._names = {id(array): name for name, array in self._arrays.items()}
        self._blanks = {id(blank[0]): blank for blank in parameters.blanks()}
        self.references: list[Any] = []

    def persistent_id(self, obj: Any) -> tuple[str, str, str, tuple[int, ...], str] | None:
        # subclasses other than maps of files would come back as plain arrays: they go by value
        if type(obj) not in (np.ndarray, np.memmap) or id(obj) not in self._names:
            return None
        order = "F" if obj.flags.f_contiguous and not obj.flags.c_contiguous else "C"
        return _TAG, self._names[id(obj)], obj.dtype.str, obj.shape, order

    def reducer_override(self, obj: Any) -> Any:
        if id(obj) in self._blanks:
            return self._blanks[id(obj)][1:]
        if hasattr(obj, "_pickle_registry"):  # a broadcast variable
            self.references.append(obj)
        # Spark forgets one after the task that unpickled it, and we unpickle but once.
        if f"{type(obj).__module__}.{type(obj).__name__}" == "pyspark.accumulators.Accumulator":
            raise ConfigError(
                "a Spark accumulator counts in the first task of each Python worker only; have "
                "gradient return its figures as Update(update, metrics={'name': number})"
            )
        # cloudpickle 3.1.3 drops the file's name, and tracebacks would lose the user's lines
        if isinstance(obj, CodeType) and obj.co_filename:
            return _located, (obj.replace(co_filename=""), obj.co_filename)
        return super().reducer_override(obj)


def _located(code: CodeType, filename: str) -> CodeType:
    return code.replace(co_filename=filename)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self._arrays: dict[str, NDArray[Any]] = {}

    def persistent_load(self, pid: Any) -> NDArray[Any]:
        tag, name, dtype, shape, order = pid
        if tag != _TAG:
            raise pickle.UnpicklingError(f"unknown reference {tag!r}, expected {_TAG!r}")
        if name not in self._arrays:
            self._arrays[name] = np.zeros(shape, dtype, order)
        return self._arrays[name]


def _dump(value: Any, parameters: Parameters, references: list[Any] | None = None) -> bytes:
    file = io.BytesIO()
    pickler = _Pickler(file, parameters)
    pickler.dump(value)
    if references is not None:
        references += pickler.references
    return file.getvalue()


def _explained(
    model: Any, parameters: Parameters, extras: tuple[Any, ...], error: Exception
) -> ConfigError:
    """Find the part that fails by trying them one by one."""
    parts = [(f"the model ({type(model).__name__})", model)]
    parts += [(_title(extra), extra) for extra in extras]
    for title, part in parts:
        cause = _failure(part, parameters)
        if cause is None:
            continue
        inner = [name for name, value in _inside(part) if _failure(value, parameters)]
        at = f", because of {', '.join(map(repr, inner))}" if inner else ""
        what = f"{title} cannot be sent to the workers{at}: {cause}"
        if isinstance(cause, ConfigError):
            return ConfigError(what)
        return ConfigError(
            f"{what}; locks, open files, sockets and the SparkContext live on the driver only: "
            "keep them out of the model and make what gradient needs inside of gradient"
        )
    return ConfigError(f"the model and gradient cannot be sent to the workers together: {error}")


def _failure(value: Any, parameters: Parameters) -> Exception | None:
    try:
        _dump(value, parameters)
    except Exception as error:
        return error
    return None


def _title(extra: Any) -> str:
    if isinstance(extra, FunctionType | MethodType):
        return f"the function {extra.__name__!r}"
    return f"the {type(extra).__name__}"


def _inside(part: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a part holds, by name: the variables of a function, items, attributes."""
    if isinstance(part, FunctionType | MethodType):
        try:
            seen = inspect.getclosurevars(part)
        except ValueError:  # a variable of the closure has no value yet
            return
        yield from seen.nonlocals.items()
        yield from seen.globals.items()
    elif isinstance(part, dict):
        yield from ((str(key), value) for key, value in part.items())
    else:
        yield from getattr(part, "__dict__", {}).items()
