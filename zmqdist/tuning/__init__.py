"""Staleness-tuning experiments: studies of settings, kept, judged and drawn."""

from zmqdist.errors import TrialPruned
from zmqdist.tuning.opening import create_study, load_study
from zmqdist.tuning.pruners import LateTrialPruner, Pruner, SuccessiveHalvingPruner
from zmqdist.tuning.samplers import GridSampler, HalvingSampler, product_of
from zmqdist.tuning.study import Study
from zmqdist.tuning.trial import FrozenTrial, Trial, TrialState

__all__ = [
    "FrozenTrial",
    "GridSampler",
    "HalvingSampler",
    "LateTrialPruner",
    "Pruner",
    "Study",
    "SuccessiveHalvingPruner",
    "Trial",
    "TrialPruned",
    "TrialState",
    "create_study",
    "load_study",
    "product_of",
]
