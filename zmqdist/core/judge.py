"""What becomes of an update that is new: the policy's decision, and the count of it."""

from __future__ import annotations

from zmqdist.core.actions import Apply
from zmqdist.core.ledger import Key, Outcome
from zmqdist.core.messages import REQUEUED, Push
from zmqdist.core.report import Totals
from zmqdist.core.sessions import Session
from zmqdist.core.staleness import Arrival, Policy, Verdict


class Judge:
    """Puts updates before the policy.

    Parameters
    ----------
    policy : Policy
    totals : Totals
        Where the updates that are turned down are counted.
    """

    def __init__(self, policy: Policy, totals: Totals) -> None:
        self._policy = policy
        self._totals = totals

    def judge(
        self,
        key: Key,
        session: Session,
        push: Push,
        tau: int,
        *,
        version: int,
        workers: int,
        now: float,
    ) -> Apply | str:
        """Decide on an update that the ledger does not hold.

        Returns
        -------
        Apply or str
            What to do, or the outcome of an update that is turned down: rejected, or
            to be computed again. A worker whose update is turned down needs the
            current version, or its next one would be, too.
        """
        decision = self._policy.decide(
            Arrival(
                tau,
                version,
                session.number,
                workers,
                now,
                push.examples,
                push.compute_s,
                push.half_dot,
                push.half_sq,
            )
        )
        if decision.verdict is Verdict.APPLY and not push.abandoned:
            return Apply(key, session, push, tau, decision.weight)
        if decision.verdict is not Verdict.REJECT:
            return self.requeue(session, tau, version)  # also if abandoned and yet acceptable
        session.need = max(session.need, version)
        self._totals.rejected_tau += tau
        self._totals.rejected += 1
        return Outcome.REJECTED

    def requeue(self, session: Session, tau: int, version: int) -> str:
        """Count an update that is to be computed again; return the outcome."""
        session.need = max(session.need, version)
        self._totals.rejected_tau += tau
        self._totals.requeued += 1
        return REQUEUED
