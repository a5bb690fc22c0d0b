"""A ready gradient for PyTorch modules: that of a loss.

A program is::

    def loss(module, rows):
        x, y = default_collate(rows)
        return cross_entropy(module(x), y)

    with ZmqDist(module) as dd:
        dd.train(rdd, LossGradient(loss), Adam(0.001), batch_size=64)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from zmqdist.errors import ConfigError
from zmqdist.models.update import Update
from zmqdist.wire.rows import RowSparse


@dataclass(frozen=True)
class LossGradient:
    """The gradient of a loss by the parameters of a module, for an optimizer as `descent`.

    Parameters
    ----------
    loss : callable (module, batch) -> Tensor
        Called in train mode, with the list of items that ``batch_size=`` cut. The tensor
        has one element; its value is the metric ``loss``.
    threads : int, optional
        Threads that torch may use meanwhile. Default 1, for there are as many workers on a
        host as it has cores; None leaves it to torch.
    leave_buffers : bool, default=False
        Let the forward pass change buffers, as BatchNorm does with its running statistics.
        See the notes.

    Raises
    ------
    ConfigError
        `threads` is no count.

    Notes
    -----
    What an optimizer on the master gets are gradients, and buffers have none. What a forward
    pass does to them stays in the worker, where the next version undoes it: after training
    the module has the buffers that it began with. In BatchNorm only the eval mode reads
    them, and there they would be wrong. So this raises, unless ``leave_buffers=True`` says
    that the program computes them anew before the module is put into eval mode, after
    training and within `evaluate`::

        torch.optim.swa_utils.update_bn(batches, module)

    as averaged weights need it in torch too. LayerNorm and GroupNorm have no such buffers.
    BatchNorm layers that are to stay in eval mode need a module that overrides ``train``.

    Parameters that are frozen, or that this loss did not use, have no entry in the update.
    Sparse gradients, as of ``Embedding(sparse=True)``, become `RowSparse`.
    """

    loss: Callable[[Any, Any], Any]
    threads: int | None = 1
    leave_buffers: bool = False

    def __post_init__(self) -> None:
        if self.threads is not None and (not isinstance(self.threads, int) or self.threads < 1):
            raise ConfigError(f"threads is {self.threads!r}; expected an integer >= 1 or None")

    def __call__(self, module: torch.nn.Module, batch: Any) -> Update:
        """Return the gradient of the batch by parameter name, with the metric ``loss``."""
        module.train()
        module.zero_grad()
        before = {} if self.leave_buffers else {n: b.clone() for n, b in module.named_buffers()}
        with _threads(self.threads):
            loss = self.loss(module, batch)
            if not isinstance(loss, torch.Tensor) or loss.numel() != 1 or not loss.requires_grad:
                raise ConfigError(
                    f"the loss is {_spoken(loss)}; expected a tensor of one element that is "
                    "computed from parameters of the module, not detached and not frozen"
                )
            loss.backward()
        if not self.leave_buffers:
            _refuse_changes(module, before)
        gradients = {
            name: _array(parameter.grad)
            for name, parameter in module.named_parameters()
            if parameter.grad is not None
        }
        return Update(gradients, metrics={"loss": loss.item()})


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _refuse_changes(module: torch.nn.Module, before: dict[str, torch.Tensor]) -> None:
    buffers = dict(module.named_buffers())
    changed = [n for n, b in before.items() if n in buffers and not torch.equal(b, buffers[n])]
    if changed and (changed := [name for name in changed if name in module.state_dict()]):
        raise ConfigError(
            f"the forward pass changed buffers, {changed[:5]}, which no optimizer learns; say "
            "LossGradient(loss, leave_buffers=True) and compute them anew after training and in "
            "evaluate, BatchNorm's by torch.optim.swa_utils.update_bn(batches, module), or use "
            "layers without running statistics, such as LayerNorm"
        )


def _array(gradient: torch.Tensor) -> Any:
    if gradient.is_sparse and gradient.sparse_dim() == 1:
        rows = gradient.coalesce()
        return RowSparse(rows.indices()[0].numpy(), rows.values().numpy(), gradient.shape)
    return gradient.to_dense().numpy()


def _spoken(loss: Any) -> str:
    if not isinstance(loss, torch.Tensor):
        return f"a {type(loss).__name__}"
    detached = "" if loss.requires_grad else " without a gradient"
    return f"a tensor of shape {tuple(loss.shape)}{detached}"


__all__ = ["LossGradient"]
