"""Staleness policies: which updates are applied, how much they count, who may run ahead."""

from zmqdist.core.staleness import (
    APPLY,
    REJECT,
    REQUEUE,
    Arrival,
    Decision,
    Needs,
    Policy,
    Verdict,
)
from zmqdist.staleness.abandon import too_stale
from zmqdist.staleness.bounds import Asynchronous, BoundedStaleness, Ringmaster
from zmqdist.staleness.buffers import BackupWorkers, BulkSynchronous, FedBuff, Rennala, SoftSync
from zmqdist.staleness.check import check_policy
from zmqdist.staleness.compensation import Base, Between, DelayCompensated, GapAware
from zmqdist.staleness.composed import Composed
from zmqdist.staleness.forms import as_policy, default_policy, parse_policy
from zmqdist.staleness.gates import DynamicStaleSynchronous, StaleSynchronous
from zmqdist.staleness.weights import RateRescaled, StalenessAware

__all__ = [
    "APPLY",
    "REJECT",
    "REQUEUE",
    "Arrival",
    "Asynchronous",
    "BackupWorkers",
    "Base",
    "Between",
    "BoundedStaleness",
    "BulkSynchronous",
    "Composed",
    "Decision",
    "DelayCompensated",
    "DynamicStaleSynchronous",
    "FedBuff",
    "GapAware",
    "Needs",
    "Policy",
    "RateRescaled",
    "Rennala",
    "Ringmaster",
    "SoftSync",
    "StaleSynchronous",
    "StalenessAware",
    "Verdict",
    "as_policy",
    "check_policy",
    "default_policy",
    "parse_policy",
    "too_stale",
]
