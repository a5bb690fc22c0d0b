"""What a worker has sent and has no answer to, and when it is sent again."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace

from zmqdist.core.messages import Finish, Push
from zmqdist.core.worker_actions import Action, SendToMaster, SendUpdate

MAX_BEATS = 100
"""Heartbeats that are remembered, so that their answers can be told apart."""


class Unanswered:
    """Updates under way, and the word that the partition is at its end.

    The master answers in the order in which it is asked. What was sent before a heartbeat
    and has no answer when that is answered was lost, or its answer was: it is sent again at
    once. Without such a sign it is sent again after a time.

    Attributes
    ----------
    pushes : dict of int to Push
        By step.
    """

    def __init__(self) -> None:
        self.pushes: dict[int, Push] = {}
        self._finish: Finish | None = None
        self._sent_at: dict[int, float] = {}
        self._again: set[int] = set()
        self._beats: deque[float] = deque(maxlen=MAX_BEATS)
        self._n_beats = 0

    @property
    def finishing(self) -> bool:
        """Whether the end of the partition was announced."""
        return self._finish is not None

    def push(self, push: Push, now: float) -> None:
        """Note that an update is sent."""
        self.pushes[push.step], self._sent_at[push.step] = push, now

    def finish(self, finish: Finish, now: float) -> None:
        """Note that the end of the partition is announced."""
        self._finish, self._sent_at[-1] = finish, now

    def beat(self, now: float) -> int:
        """Note that a heartbeat is sent; return its number."""
        self._beats.append(now)
        self._n_beats += 1
        return self._n_beats - 1

    def answered(self, step: int) -> tuple[Push | None, bool]:
        """Take the answer to an update: None if it had one; whether it was sent again."""
        push = self.pushes.pop(step, None)
        again = step in self._again
        self._again.discard(step)
        if push is not None:
            del self._sent_at[step]
        return push, again

    def beat_answered(self, number: int, session: int, now: float) -> list[Action]:
        """Send again what the heartbeat of that number, now answered, has overtaken."""
        place = number - (self._n_beats - len(self._beats))
        if not 0 <= place < len(self._beats):
            return []
        return self._send(session, now, math.nextafter(self._beats[place], -math.inf))

    def patient(self, now: float) -> None:
        """Let nothing be overdue yet."""
        self._sent_at = dict.fromkeys(self._sent_at, now)

    def overdue(self, session: int, now: float, patience_s: float) -> list[Action]:
        """Send again what has waited for so long."""
        return self._send(session, now, now - patience_s)

    def updates(self, session: int, now: float) -> list[Action]:
        """Send all updates again, in a new session."""
        return [self._push(session, step, now) for step in self.pushes]

    def end(self, session: int, now: float) -> list[Action]:
        """Announce the end of the partition again, if it was, perhaps in a new session.

        In that one without the times: the old one may have ended because they arrived.
        """
        if self._finish is None:
            return []
        if self._finish.session != session:
            self._finish = Finish(session, self._finish.steps)
        self._sent_at[-1] = now
        return [SendToMaster(self._finish)]

    def _send(self, session: int, now: float, until: float) -> list[Action]:
        late = [step for step in self.pushes if self._sent_at[step] <= until]
        actions = [self._push(session, step, now) for step in late]
        if self._finish is not None and self._sent_at[-1] <= until:
            actions += self.end(session, now)
        return actions

    def _push(self, session: int, step: int, now: float) -> Action:
        self._sent_at[step] = now
        self._again.add(step)
        push = self.pushes[step]
        return SendUpdate(push if push.session == session else replace(push, session=session))
