"""Models as parameters: named arrays and small scalars, whatever the model is.

Importing this package needs numpy only; adapters for libraries are imported
when a model of that library turns up.
"""

from zmqdist.models.base import Parameters, Scalar, Schema, as_scalar, parameters_of

__all__ = ["Parameters", "Scalar", "Schema", "as_scalar", "parameters_of"]
