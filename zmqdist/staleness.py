"""Staleness policies, by their public names (see `zmqdist.core.staleness`)."""

from zmqdist.core.staleness import (
    Asynchronous,
    BoundedStaleness,
    Decision,
    Policy,
    SoftSync,
    StaleSynchronous,
    Verdict,
)

__all__ = [
    "Asynchronous",
    "BoundedStaleness",
    "Decision",
    "Policy",
    "SoftSync",
    "StaleSynchronous",
    "Verdict",
]
