"""The generic adapter: finds arrays and numbers by walking a model, and names them by path.

Owns `Path` (how a value is reached in a model), `PathParameters` (parameters
at fixed paths, also the base of the gensim adapter) and the walk itself.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MemberDescriptorType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zmqdist.errors import ModelError
from zmqdist.models.base import Parameters, Scalar, as_scalar
from zmqdist.wire.plan import DTYPES

ROOT = "model"  # the name of a model that is itself an array
MAX_SCALARS = 10_000
MAX_DEPTH = 32
_DECLARE = "name what is learned in the class: __zmqdist__ = ('weights', 'bias')"
_TRAINABLE = frozenset(dtype.newbyteorder("=").str for dtype in DTYPES.values())

# Objects of these packages are part of the structure, never searched for parameters: locks,
# loggers, files and random generators live here. Two plain bags of attributes are the exception.
_OPAQUE = frozenset(sys.stdlib_module_names) | {"numpy", "pandas", "py4j", "pyspark", "zmq"}
_BAGS = {("types", "SimpleNamespace"), ("argparse", "Namespace")}


@dataclass(frozen=True, slots=True)
class Path:
    """How a value is reached from the model.

    Parameters
    ----------
    steps : tuple of (bool, object)
        (True, name) takes an attribute, (False, key) an item.
    """

    steps: tuple[tuple[bool, Any], ...] = ()

    @classmethod
    def of(cls, name: str) -> Path:
        """Return the path of dotted attributes, ``"wv.vectors"``."""
        return cls(tuple((True, part) for part in name.split(".")))

    @property
    def name(self) -> str:
        """The path as text: ``layers[0].bias``."""
        text = ""
        for attribute, key in self.steps:
            if attribute or (isinstance(key, str) and key.isidentifier()):
                text += f".{key}" if text else key
            elif _is_plain_key(key):
                text += f"[{key!r}]"
            else:
                raise ModelError(
                    f"an array or number is under the key {key!r} of {text or ROOT}: got a "
                    f"{type(key).__name__}, expected a key with the same name in every process "
                    "(a string, a number or a tuple of them)"
                )
        return text or ROOT

    def attribute(self, name: str) -> Path:
        """Return the path of an attribute of what is here."""
        return Path((*self.steps, (True, name)))

    def item(self, key: Any) -> Path:
        """Return the path of an item of what is here."""
        return Path((*self.steps, (False, key)))

    def get(self, model: Any) -> Any:
        """Return the value at this path of `model`."""
        for attribute, key in self.steps:
            model = getattr(model, key) if attribute else model[key]
        return model

    def set(self, model: Any, value: Any) -> None:
        """Bind the value at this path of `model`."""
        if not self.steps:
            raise TypeError("the model itself cannot be bound to another object")
        *way, (attribute, key) = self.steps
        place = Path(tuple(way)).get(model)
        if attribute:
            setattr(place, key, value)
        else:
            place[key] = value


class PathParameters(Parameters):
    """Parameters at fixed paths of a model.

    Parameters
    ----------
    model : object
        The user's model.
    arrays, scalars : mapping of str to Path
        Where the parameters are, by name.
    """

    def __init__(self, model: Any, arrays: Mapping[str, Path], scalars: Mapping[str, Path]) -> None:
        self.model = model
        self._scalars = dict(scalars)
        first = {name: path.get(model) for name, path in arrays.items()}
        self._arrays = {name: (arrays[name], a.dtype, a.shape) for name, a in first.items()}

    def arrays(self) -> dict[str, NDArray[Any]]:
        live: dict[str, NDArray[Any]] = {}
        for name, (path, dtype, shape) in self._arrays.items():
            value = self._get(name, path, "array")
            if isinstance(value, np.generic) and shape == ():
                # numpy turns 0-d arrays into scalars: `model.b = model.b - g`
                value = np.asarray(value)
                value.flags.writeable = False  # writing here would not reach the model
            if not isinstance(value, np.ndarray) or value.dtype != dtype or value.shape != shape:
                raise ModelError(
                    f"array {name!r} of the model changed: was {dtype} {shape}, is "
                    f"{_spoken(value)}; descent must keep shapes and dtypes (change arrays in "
                    "place, or convert with .astype before binding a new one)",
                    array=name,
                )
            live[name] = value
        return live

    def scalars(self) -> dict[str, Scalar]:
        live: dict[str, Scalar] = {}
        for name, path in self._scalars.items():
            value = self._get(name, path, "number")
            number = as_scalar(value)
            if number is None:
                raise ModelError(
                    f"number {name!r} of the model changed: was a number, is {_spoken(value)}; "
                    "descent must keep numbers numbers (for vectors, start with an array)",
                    scalar=name,
                )
            live[name] = number
        return live

    def assign(self, name: str, value: Any) -> None:
        path = self._scalars[name] if name in self._scalars else self._arrays[name][0]
        try:
            path.set(self.model, value)
        except (AttributeError, TypeError, ValueError, LookupError) as error:
            raise ModelError(
                f"{name!r} of the model cannot be set: {error}; make it a writable array"
            ) from error

    def _get(self, name: str, path: Path, kind: str) -> Any:
        try:
            return path.get(self.model)
        except (AttributeError, TypeError, LookupError) as error:
            raise ModelError(
                f"{kind} {name!r} vanished from the model ({error}); the parameters that the "
                "model has when training starts must stay where they are"
            ) from error


def adapt(model: Any) -> PathParameters:
    """Return the arrays and numbers that a walk through the model finds.

    The walk enters dicts, lists, tuples and the attributes of objects, ``__slots__``
    included, but no objects of the standard library. A class may name what is
    learned itself, ``__zmqdist__ = ("weights", "bias")``; other attributes are
    then left alone. Strings and dates are structure. Numbers in tuples and in
    frozen dataclasses cannot be set and are left out.

    Raises
    ------
    ModelError
        Nothing to learn; an estimator of scikit-learn that is not fitted; an array that
        cannot travel, of objects for one; a tensor of another library; two arrays that share
        memory; more than 10,000 single numbers; nesting deeper than 32 levels.
    """
    walk = _Walk()
    walk.visit(model, Path(), settable=False)
    if not walk.arrays and not walk.scalars:
        raise ModelError(
            f"there is nothing to learn in this model: got a {type(model).__name__} without "
            "numeric arrays or numbers that can be set; expected a numpy array, dicts or lists of "
            "them, an object with such attributes, a gensim Word2Vec, Doc2Vec or FastText, or a "
            "torch.nn.Module"
        )
    if not walk.arrays and (estimator := walk.estimator()):
        raise ModelError(
            f"the model has numbers but no arrays: its {estimator} is not fitted, and what it has "
            "later would not be trained; call partial_fit or fit once before training starts, on "
            f"examples of all classes, or {_DECLARE}"
        )
    refuse_overlaps([(name, path.get(model)) for name, path in walk.arrays.items()])
    return PathParameters(model, walk.arrays, walk.scalars)


class _Walk:
    """One depth-first search; the first path to an object is its name."""

    def __init__(self) -> None:
        self.arrays: dict[str, Path] = {}
        self.scalars: dict[str, Path] = {}
        self._seen: dict[int, Any] = {}  # holds the objects, so that no id is given out twice

    def visit(self, value: Any, path: Path, settable: bool) -> None:
        if isinstance(value, enum.Enum):
            return  # an IntEnum is an int, but a choice and not a quantity
        if not isinstance(value, np.ndarray) and as_scalar(value) is not None:
            if settable:
                self._claim(path, self.scalars)
                if len(self.scalars) > MAX_SCALARS:
                    raise ModelError(
                        f"the model has more than {MAX_SCALARS:,} single numbers (the last one is "
                        f"{path.name}); keep them in numpy arrays, or {_DECLARE}"
                    )
            return
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if isinstance(value, np.ndarray):
            if value.dtype.kind in "OVbiufc":  # strings and dates are structure
                _refuse_what_cannot_travel(value, path)
                self._claim(path, self.arrays)
            return
        if _learns_nothing(value):
            return
        if hasattr(type(value), "__dlpack__"):
            raise ModelError(
                f"{path.name!r} is a {type(value).__module__}.{type(value).__qualname__}, expected "
                "a numpy array; nobody would see what it learns: keep numpy arrays, such as the "
                "view of its memory that .numpy() makes, or give a torch.nn.Module itself as the "
                f"model (several in a torch.nn.ModuleDict), or {_DECLARE}"
            )
        for child_path, child, child_settable in _children(value, path):
            if len(child_path.steps) > MAX_DEPTH:
                raise ModelError(
                    f"the model is nested deeper than {MAX_DEPTH} levels at {child_path.name}; "
                    f"{_DECLARE}"
                )
            self.visit(child, child_path, child_settable)

    def estimator(self) -> str:
        """Return the class of a scikit-learn estimator on the way, if there was one."""
        for cls in map(type, self._seen.values()):
            known = any(base.__module__.partition(".")[0] == "sklearn" for base in cls.__mro__)
            if known and hasattr(cls, "fit") and not hasattr(cls, "__zmqdist__"):
                return cls.__name__
        return ""

    def _claim(self, path: Path, found: dict[str, Path]) -> None:
        if path.name in self.arrays or path.name in self.scalars:
            raise ModelError(f"two parameters of the model are called {path.name!r}; rename one")
        found[path.name] = path


def _children(value: Any, path: Path) -> Iterator[tuple[Path, Any, bool]]:
    """Yield (path, child, whether a number there can be set)."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield path.item(key), child, True
    elif isinstance(value, list | tuple):
        for index, child in enumerate(value):
            yield path.item(index), child, isinstance(value, list)
    cls = type(value)
    package = cls.__module__.partition(".")[0]
    if isinstance(value, type) or (
        package in _OPAQUE and (cls.__module__, cls.__qualname__) not in _BAGS
    ):
        return
    frozen = bool(getattr(getattr(cls, "__dataclass_params__", None), "frozen", False))
    declared = getattr(cls, "__zmqdist__", None)
    for name in _attributes(value) if declared is None else declared:
        if hasattr(value, name):
            yield path.attribute(name), getattr(value, name), not frozen
        elif declared is not None:  # otherwise it is an empty slot
            raise ModelError(
                f"{cls.__name__}.__zmqdist__ names {name!r}, which {path.name!r} does not have; "
                "set it before training starts"
            )


def _attributes(value: Any) -> list[str]:
    slots = [
        name
        for cls in reversed(type(value).__mro__)
        for name, member in vars(cls).items()
        if isinstance(member, MemberDescriptorType) and name != "__dict__"
    ]
    attributes = getattr(value, "__dict__", {})
    # `self.__dict__ = self` is a dict whose keys read as attributes: its items are known
    return slots if attributes is value else [*slots, *attributes]


def _is_plain_key(key: Any) -> bool:
    if isinstance(key, tuple):
        return all(map(_is_plain_key, key))
    return key is None or isinstance(key, str | bytes | bool | int | float | enum.Enum | np.generic)


def _learns_nothing(value: Any) -> bool:
    """Whether this is a frozen module of torch, which is structure."""
    torch = sys.modules.get("torch")  # whoever holds a module has imported it
    if torch is None or not isinstance(value, torch.nn.Module):
        return False
    return not any(parameter.requires_grad for parameter in value.parameters())


def _refuse_what_cannot_travel(array: NDArray[Any], path: Path) -> None:
    masked = isinstance(array, np.ma.MaskedArray)
    if masked or array.dtype.str not in _TRAINABLE:
        what = "is a masked array" if masked else f"has dtype {array.dtype}"
        raise ModelError(
            f"array {path.name!r} {what}, expected numbers of at most 64 bits (complex ones: 128) "
            "in the byte order of this machine; convert it (.astype(np.float64), or .filled() if "
            f"masked), use a list of arrays, or {_DECLARE}"
        )


def refuse_overlaps(
    found: Sequence[tuple[str, NDArray[Any]]],
    cure: str = "keep one of them and make the other a property",
) -> None:
    """Refuse views of one another: their changes would be counted twice.

    They need not have a common base, so that what counts is where they lie.

    Raises
    ------
    ModelError
        Names two arrays that share memory, and the `cure`.
    """
    spans = sorted((*_span(array), n) for n, (_, array) in enumerate(found) if array.size)
    reaching: list[tuple[int, int]] = []  # end and number of those that go on beyond `low`
    for low, high, n in spans:
        reaching = [(end, other) for end, other in reaching if end > low]
        for _, other in reaching:
            if np.shares_memory(found[other][1], found[n][1]):
                first, second = (found[i][0] for i in sorted((other, n)))
                raise ModelError(
                    f"arrays {first!r} and {second!r} of the model share memory, so their "
                    f"changes would count twice; {cure}"
                )
        reaching.append((high, n))


def _span(array: NDArray[Any]) -> tuple[int, int]:
    """Return the addresses of the first byte of an array, and of the first one behind it."""
    reach = [(n - 1) * stride for n, stride in zip(array.shape, array.strides, strict=True)]
    low, high = sum(min(r, 0) for r in reach), sum(max(r, 0) for r in reach)
    return array.ctypes.data + low, array.ctypes.data + high + array.itemsize


def _spoken(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return f"a {type(value).__name__}"
