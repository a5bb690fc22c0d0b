"""The adapter for PyTorch: a module's parameters and buffers, and all to train them.

Owns the knowledge which tensors of a module travel, when numpy can view one, and how
one is pickled without its values.
"""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch.nn.parameter import is_lazy

from zmqdist.errors import ModelError
from zmqdist.models.arrays import refuse_overlaps
from zmqdist.models.base import Blank, Parameters, Scalar
from zmqdist.models.torch_training import LossGradient

TIE = (
    "make them one: decoder.weight = encoder.weight ties two layers, "
    "torch.nn.Parameter(encoder.weight) makes a second parameter"
)


class TorchParameters(Parameters):
    """What `state_dict` of a module holds: its parameters and persistent buffers.

    Arrays: views of the tensors' memory, under the names of ``named_parameters`` and
    ``named_buffers``; a tensor that has several names counts once. There are no scalars:
    numbers among the attributes are settings.

    Frozen parameters are among the arrays. They go to the workers with the first version
    and not again while nobody changes them, and may be thawed at any time. Buffers that are
    not persistent are caches: they go with the structure, and each worker keeps its own.

    Raises
    ------
    ModelError
        The module has no parameters; one is not on the CPU, has no values yet, or is
        nothing that numpy can view; two share memory.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self.model = module
        if next(module.parameters(), None) is None:
            raise ModelError(
                f"this {type(module).__name__} has no parameters, so there is nothing to learn; "
                "assign layers and torch.nn.Parameter to attributes of the module before training "
                "(lists of layers as torch.nn.ModuleList)"
            )
        saved = module.state_dict()
        self._buffers = [name for name, _ in module.named_buffers() if name in saved]
        arrays = {name: _view(name, tensor) for name, tensor in self._tensors().items()}
        self._forms = {name: (array.dtype, array.shape) for name, array in arrays.items()}
        refuse_overlaps([*arrays.items()], TIE)

    def arrays(self) -> dict[str, NDArray[Any]]:
        tensors = self._tensors()
        for name in [*self._forms, *tensors]:
            if name not in tensors or name not in self._forms:
                what = "vanished from" if name in self._forms else "is new in"
                raise ModelError(
                    f"tensor {name!r} {what} the module; it must have the parameters and buffers "
                    "that it had when training started: make a new ZmqDist for another module",
                    array=name,
                )
        live = {name: _view(name, tensors[name]) for name in self._forms}
        for name, array in live.items():
            dtype, shape = self._forms[name]
            if array.dtype != dtype or array.shape != shape:
                raise ModelError(
                    f"tensor {name!r} of the module changed: was {dtype} {shape}, is "
                    f"{array.dtype} {array.shape}; keep shapes and dtypes, or make a new ZmqDist "
                    "for another module",
                    array=name,
                )
        return live

    def scalars(self) -> dict[str, Scalar]:
        return {}

    def blanks(self) -> list[Blank]:
        """Return how to pickle the tensors without their values.

        Subclasses of tensors know things that are not seen here: they go by value.
        """
        return [
            (tensor, _blank, _form(tensor))
            for tensor in self._tensors().values()
            if type(tensor) in (torch.Tensor, torch.nn.Parameter)
        ]

    def _tensors(self) -> dict[str, torch.Tensor]:
        """Return what travels of the module as it is now."""
        buffers = dict(self.model.named_buffers())
        kept = {name: buffers[name] for name in self._buffers if name in buffers}
        return {**dict(self.model.named_parameters()), **kept}


def _view(name: str, tensor: torch.Tensor) -> NDArray[Any]:
    """Return an array of the very memory of a tensor."""
    if is_lazy(tensor):
        raise ModelError(
            f"tensor {name!r} of the module has no shape yet; call the module once on some "
            "example before training, which makes its lazy layers",
            array=name,
        )
    if tensor.device.type != "cpu":
        cure = "to_empty(device='cpu'), then give it values" if tensor.is_meta else "cpu()"
        raise ModelError(
            f"tensor {name!r} of the module is on the device {tensor.device}, expected the CPU; "
            f"move the module: module.{cure}",
            array=name,
        )
    try:
        array: NDArray[Any] = tensor.detach().numpy()
    except (TypeError, RuntimeError) as error:
        raise ModelError(
            f"tensor {name!r} of the module is {tensor.dtype}, {tensor.layout}, which numpy cannot "
            f"view ({error}); expected dense numbers of a dtype that numpy has: convert the module "
            "before training, as module.float() does",
            array=name,
        ) from error
    return array


def _form(tensor: torch.Tensor) -> tuple[Any, ...]:
    size, stride = tuple(tensor.shape), tensor.stride()
    return type(tensor), size, stride, tensor.dtype, tensor.requires_grad, vars(tensor)


def _blank(
    cls: type[torch.Tensor],
    size: tuple[int, ...],
    stride: tuple[int, ...],
    dtype: torch.dtype,
    requires_grad: bool,
    attributes: dict[str, Any],
) -> torch.Tensor:
    """Return a tensor of zeros; `_form` took its arguments from another one."""
    zeros = torch.empty_strided(size, stride, dtype=dtype, device="cpu").zero_()
    tensor = torch.nn.Parameter(zeros) if cls is torch.nn.Parameter else zeros
    vars(tensor).update(attributes)
    return tensor.requires_grad_(requires_grad)


def adapt(model: Any) -> TorchParameters | None:
    """Return the parameters and buffers of a module; None for a tensor on its own."""
    return TorchParameters(model) if isinstance(model, torch.nn.Module) else None


__all__ = ["LossGradient", "TorchParameters", "adapt"]
