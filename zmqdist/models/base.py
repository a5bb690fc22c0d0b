"""What of a model travels: the interface of the adapters, and the choice among them.

An adapter turns a model into named arrays and small named scalars and back.
Each adapter is a module with a function ``adapt(model) -> Parameters | None``;
`ADAPTERS` lists them by the package whose classes they know, so that an
adapter (and the library behind it) is imported only when a model needs it.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zmqdist.errors import ModelError, ModelMismatch
from zmqdist.wire.rows import copy_rows

Scalar = bool | int | float
Schema = dict[str, tuple[str, tuple[int, ...]]]
Blank = tuple[Any, Callable[..., Any], tuple[Any, ...]]
"""An object, and what makes one like it without values: a function and its arguments."""

# (package of the model's class or of one of its bases, module of the adapter); first match wins
ADAPTERS: list[tuple[str, str]] = [
    ("gensim.models", "zmqdist.models.gensim"),
    ("torch.nn", "zmqdist.models.torch"),
    ("sklearn", "zmqdist.models.sklearn"),
    ("", "zmqdist.models.arrays"),
]


class Parameters(ABC):
    """What of a model travels: named arrays and small scalars.

    The names are fixed when the object is made; the values are looked up anew
    at each call, so that a program may change arrays in place or bind new ones.

    Attributes
    ----------
    model : object
        The user's model, never a copy of it.
    """

    model: Any

    @abstractmethod
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the live arrays, by name, always in the same order.

        Raises
        ------
        ModelError
            An array vanished or has another shape or dtype than at first.
        """

    @abstractmethod
    def scalars(self) -> dict[str, Scalar]:
        """Return the live small numbers, by name, as Python values.

        Raises
        ------
        ModelError
            A number vanished or is no longer a number.
        """

    def derived(self) -> tuple[NDArray[Any], ...]:
        """Return arrays that `loaded` computes from the others, so they need not travel."""
        return ()

    def blanks(self) -> Sequence[Blank]:
        """Return the objects of another library that hold the arrays, with what stands for them.

        They are pickled without their values. Arrays that are attributes or items of the
        model themselves need no entry.
        """
        return ()

    def ranked(self) -> Mapping[str, NDArray[np.intp]]:
        """Return array -> its row numbers, those that change most often first, where known."""
        return {}

    def factors(self) -> tuple[frozenset[str], frozenset[str]]:
        """Return the arrays whose rows are multiplied with those of the others: a score each.

        Inputs and outputs of word vectors, whose norms say together whether training
        runs away (`zmqdist.models.norms`).
        """
        return frozenset(), frozenset()

    def adds_up(self, name: str) -> bool:
        """Say whether workers' changes of scalar `name` are to be added up.

        True for a word count; false for a setting such as a learning rate, whose
        value goes from the master to the workers and never back as a difference.
        """
        return True

    def loaded(self) -> None:  # noqa: B027 - a hook: most models have nothing to do here
        """Drop or compute anew what the model caches from its arrays.

        `load` calls it. Who writes into `arrays` directly calls it before the
        model is handed to its user.
        """

    def assign(self, name: str, value: Any) -> None:
        """Bind scalar `name`, or an array that cannot be written, to a new value.

        Raises
        ------
        ModelError
            The place in the model cannot be set.
        """
        raise ModelError(
            f"{name!r} of a {type(self.model).__name__} cannot be set; make it a writable array"
        )

    def load(
        self,
        arrays: Mapping[str, NDArray[Any]],
        scalars: Mapping[str, Scalar],
        rows: Mapping[str, NDArray[np.integer]] | None = None,
    ) -> None:
        """Copy values into the model in place; names that are not given stay as they are.

        Everything is checked first: on an error the model is untouched.

        Parameters
        ----------
        arrays : mapping of str to ndarray
        scalars : mapping of str to number
        rows : mapping of str to ndarray of int, optional
            Of these arrays copy these rows only.

        Raises
        ------
        ModelMismatch
            A name that the model has not, or an array of another shape or dtype.
        ModelError
            An array is read-only and its place in the model cannot be set.
        """
        live = self.arrays()
        for name, array in arrays.items():
            if name not in live:
                raise _unknown(name, "array", live)
            got, expected = _form(array), _form(live[name])
            if got != expected:
                raise _different(name, got, expected)
        known = self.scalars()
        for name, scalar in scalars.items():
            if name not in known:
                raise _unknown(name, "scalar", known)
            if as_scalar(scalar) is None:
                raise ModelMismatch(
                    f"scalar {name!r}: got a {type(scalar).__name__}, expected a number"
                )
        for name, array in arrays.items():
            target = self.writable(name, live[name])
            if rows is not None and name in rows:
                copy_rows(target, array, rows[name])
            else:
                np.copyto(target, array)
        self.set(scalars)
        self.loaded()

    def set(self, scalars: Mapping[str, Scalar]) -> None:
        """Set scalars that the model has; nothing is computed anew from them."""
        for name, scalar in scalars.items():
            self.assign(name, as_scalar(scalar))

    def writable(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        """Return live array `name`, bound to a writable copy of it if it is read-only.

        Raises
        ------
        ModelError
            The array is read-only and its place in the model cannot be set.
        """
        if array.flags.writeable:
            return array
        self.assign(name, array.copy())
        return self.arrays()[name]

    def schema(self) -> Schema:
        """Return name -> (``dtype.str``, shape) of the arrays."""
        return {name: _form(array) for name, array in self.arrays().items()}

    def check(self, schema: Mapping[str, tuple[str, Sequence[int]]]) -> None:
        """Compare with the schema of the other side.

        Parameters
        ----------
        schema : mapping of str to (str, sequence of int)
            What `schema` returned there; lists in place of tuples are welcome.

        Raises
        ------
        ModelMismatch
            Names the first array that differs: ``error.array``, ``error.got``
            (here) and ``error.expected`` (there); None where there is none.
        """
        mine = self.schema()
        there = {name: (str(dtype), tuple(shape)) for name, (dtype, shape) in schema.items()}
        for name in [*there, *(name for name in mine if name not in there)]:
            if mine.get(name) != there.get(name):
                raise _different(name, mine.get(name), there.get(name))


def parameters_of(model: Any) -> Parameters:
    """Return the parameters of a model, through the adapter that knows its class.

    Parameters
    ----------
    model : object
        A numpy array; dicts, lists and tuples of arrays and numbers; any object
        with such attributes; a gensim Word2Vec, Doc2Vec or FastText; a
        torch.nn.Module; or a fitted estimator of scikit-learn. A `Parameters`
        object is returned as it is.

    Raises
    ------
    ModelError
        There is nothing to learn in the model, or part of it cannot travel.
    """
    if isinstance(model, Parameters):
        return model
    modules = [cls.__module__ for cls in type(model).__mro__]
    for package, adapter in ADAPTERS:
        if any(not package or f"{module}.".startswith(f"{package}.") for module in modules):
            parameters: Parameters | None = importlib.import_module(adapter).adapt(model)
            if parameters is not None:
                return parameters
    raise ModelError(f"no adapter takes a {type(model).__name__}")  # the last one takes all


def as_scalar(value: Any) -> Scalar | None:
    """Return a Python or numpy number as a Python value; None for anything else."""
    if isinstance(value, np.bool_ | np.integer | np.floating) or (
        isinstance(value, np.ndarray) and value.shape == ()
    ):
        value = value.item()
    return value if isinstance(value, bool | int | float) else None


def _form(array: NDArray[Any]) -> tuple[str, tuple[int, ...]]:
    return array.dtype.str, array.shape


def _different(name: str, got: Any, expected: Any) -> ModelMismatch:
    return ModelMismatch(
        f"the models differ at array {name!r}: got {_spoken(got)}, expected {_spoken(expected)}; "
        "build the model the same way on both sides" + _KEPT * (got is None),
        array=name,
        got=got,
        expected=expected,
    )


_KEPT = (
    "; a __getstate__ must keep it, or the class name what is learned: __zmqdist__ = ('weights',)"
)


def _spoken(form: tuple[str, tuple[int, ...]] | None) -> str:
    return "no such array" if form is None else f"{np.dtype(form[0])} {form[1]}"


def _unknown(name: str, kind: str, known: Mapping[str, Any]) -> ModelMismatch:
    return ModelMismatch(
        f"the model has no {kind} {name!r}, expected one of {list(known)[:20]}; "
        "build the model the same way on both sides",
        **{kind: name},
    )
