"""What a task needs to take part in a training: it travels with the task."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import numpy as np

from zmqdist.models.base import Schema
from zmqdist.models.tiers import Tiers
from zmqdist.net.security import ClientKeys

REPLICAS = ("auto", "shared", "private")
SHARE_BYTES = 1 << 18
"""Models of this size and more are shared by the workers of a host, unless told."""

CONNECT_S = 10.0
"""Deadline of a worker's handshake, in seconds."""


@dataclass(frozen=True)
class Assignment:
    """What a task needs to take part; travels in the closure.

    Attributes
    ----------
    address : str
        The master's, ``tcp://host:port``.
    run, epoch : str, int
        The fence: a master of another run or a closed epoch tells the task to stop.
    schema : dict
        The master's parameters; the worker's model must have the same.
    keys : ClientKeys or None
        The worker's keys; None talks plain TCP.
    codec : str
        How updates are coded, see `zmqdist.wire.codec`.
    max_in_flight : int
        See `zmqdist.core.worker_state.WorkerState`.
    batch_size : int or None
        Items per update; None leaves it to the gradient.
    tiers : Tiers or None
        How a gradient that trains in place exchanges rows; None for one that returns
        updates.
    connect_s : float
        Deadline of the handshake, in seconds.
    replica : {"auto", "shared", "private"}
        Whether the workers of a host share one, see `zmqdist.sharing`.
    where : str
        How the address was chosen, for the error that nobody answers there.
    """

    address: str
    run: str
    epoch: int
    schema: Schema
    keys: ClientKeys | None = field(default=None, repr=False)
    codec: str = "auto"
    max_in_flight: int = 2
    batch_size: int | None = None
    tiers: Tiers | None = None
    connect_s: float = CONNECT_S
    replica: str = "auto"
    where: str = ""

    @property
    def shares(self) -> bool:
        """Whether the workers of a host are to share a replica."""
        sizes = (prod(shape) * np.dtype(dtype).itemsize for dtype, shape in self.schema.values())
        return self.replica == "shared" or (self.replica == "auto" and sum(sizes) >= SHARE_BYTES)
