"""One setting of a trial, with its policy made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zmqdist.merge import Merge, parse_merge
from zmqdist.staleness import Policy, parse_policy

UNBOUNDED = 2**31 - 1
"""What stands for the bound ``inf`` in a policy's number."""

HOLE = "{bound}"
"""Where the bound goes in a policy's text, as in ``bounded:{bound}:requeue``."""


@dataclass(frozen=True)
class Setting:
    """What a trial tries.

    Attributes
    ----------
    policy : Policy
    lr : float
        The learning rate.
    chunk : int
        Items per update.
    workers : int
    merge : Merge or None
    seed : int
        Of the delays and of the order of the data, the same for every policy.
    """

    policy: Policy
    lr: float
    chunk: int
    workers: int
    merge: Merge | None = None
    seed: int = 0

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Setting:
        """Make the setting of a trial's parameters."""
        merge = params.get("merge")
        return cls(
            policy=parse_policy(policy_text(params["policy"], params.get("bound"))),
            lr=params["lr"],
            chunk=params["chunk"],
            workers=params["workers"],
            merge=None if merge is None else parse_merge(merge),
            seed=params["seed"],
        )


def policy_text(policy: str, bound: float | None) -> str:
    """Return a policy's text with its bound filled in."""
    if bound is None:
        return policy
    return policy.replace(HOLE, str(UNBOUNDED if bound == float("inf") else int(bound)))


def shown(policy: str, bound: float | None) -> str:
    """Return a policy's text with its bound filled in, for people."""
    if bound is None or bound < float("inf"):
        return policy_text(policy, bound)
    return policy.replace(HOLE, "∞")


def family(policy: str) -> str:
    """Return what to call policies that differ only in their bound, for people."""
    return policy.replace(f":{HOLE}", "")


def is_gate(policy: Policy) -> bool:
    """Whether a policy holds workers back, rather than judge what they send."""
    return policy.gates
