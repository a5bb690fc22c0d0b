"""Which version of the model a worker holds, which it needs, and what it asks for."""

from __future__ import annotations

from zmqdist.core.freshness import Freshness
from zmqdist.core.lineage import Point
from zmqdist.core.messages import Ack, Pull, Version, Welcome
from zmqdist.core.parts import NEWEST, Parts
from zmqdist.core.pieces import Pieces
from zmqdist.core.sharing import Seen, Sharing
from zmqdist.core.worker_actions import Action, Load, Renew, SendPull, SendToMaster, Subscribe


class Holding:
    """The model's half of `zmqdist.core.worker_state.WorkerState`.

    Parameters
    ----------
    run, have, in_place, keep_bits, shared
        As in `WorkerState`.

    Attributes
    ----------
    session : int
        Of the worker, while it is open; else 0, and nothing is asked.
    """

    def __init__(
        self, run: str, have: Point, *, in_place: bool, keep_bits: int, shared: bool
    ) -> None:
        self.session = 0
        self.parts = Parts(keep_bits)
        self._pieces = Pieces()
        self._whole = False
        self.fresh = Freshness(have)
        self._run = run
        self._in_place = in_place
        self._sharing = Sharing(shared=shared, receives=not in_place and not shared)
        self._published = -1
        self._publish_port = 0
        self._pulled_at: float | None = None
        self._hears = False

    # ---- asked by the worker ------------------------------------------------------

    @property
    def asking(self) -> bool:
        """Whether an answer about the whole model is to come."""
        return self._pulled_at is not None

    @property
    def readable(self) -> bool:
        """Whether a version is held, whole."""
        return self.fresh.version >= 0 and not self._sharing.torn

    def enough(self, clock: int) -> bool:
        """Whether a step of this clock may be computed on what is held."""
        return self.readable and self.fresh.enough(clock)

    def start(self, clock: int) -> bool:
        """Start a step of this clock; whether the model has to be read first."""
        self._sharing.satisfied()
        return self.fresh.read(clock)

    def want(self, clock: int, now: float) -> list[Action]:
        """Ask for a version on which a step of this clock may be computed."""
        if not self.session or self.asking or self.enough(clock):
            return []
        published = self.fresh.need <= max(self._published, 0)
        return [] if self._sharing.patient(published=published, now=now) else self.pull(now)

    def ask(self, part: int, now: float) -> list[Action]:
        """Ask for the newest values of a part; nothing while that is under way already."""
        if not self.session:
            return []
        if part == 0:
            return [] if self.asking else self.pull(now)
        return [] if self.parts.pending(part) else [self._pull_part(part, now)]

    def pull(self, now: float) -> list[Action]:
        """Ask for what changed in the whole model, or for the next piece of it."""
        self._pulled_at = now
        want = NEWEST if self._in_place else self.fresh.need
        have, start, keep_bits = self.fresh.version, -1, self.parts.keep_bits
        if have < 0:
            have, keep_bits = self._pieces.have, 0
            start = -1 if self._whole else self._pieces.start
        return [SendToMaster(Pull(self.session, have, want, 0, keep_bits, start))]

    def look(self, seen: Seen, clock: int, now: float) -> list[Action]:
        """Take in what a shared replica holds: other workers may have changed it."""
        self.fresh.hold(seen.version, seen.clock)
        if self.enough(clock):
            self._pulled_at = None
        if not self.session:
            return []
        if self._sharing.look(seen):
            return [Subscribe(self._publish_port), *self.pull(now)]
        return self.pull(now) if seen.torn and self._sharing.receives and not self.asking else []

    def alone(self, now: float) -> list[Action]:
        """Go on with an empty replica of one's own: the shared one is of no use."""
        subscribe: list[Action] = [] if self._sharing.receives else [Subscribe(self._publish_port)]
        self._sharing.alone()
        self._pieces.start_over()
        self.fresh.hold(-1, 0)
        return [*subscribe, *self.pull(now)] if self.session else []

    # ---- from the master -----------------------------------------------------------

    def welcome(self, message: Welcome, *, first: bool, newest: bool, now: float) -> list[Action]:
        """Begin a session, or go on with the next one of the same worker.

        `newest` as in `answered`: what the replica held before may be older.
        """
        self._publish_port = message.publish_port
        restarted = message.incarnation != self.fresh.incarnation
        actions: list[Action] = [Renew(message.incarnation)] if restarted else []
        if restarted:
            self.parts.start_over(self.fresh.replica)
            self.fresh.begin(message.incarnation)
            self._pieces.start_over()
            # What was learned in place is rebased on all of it at once.
            self._whole = self._in_place and not first
            self._published, self._pulled_at = -1, None
        self.fresh.lazy_slack = message.lazy_slack
        self.fresh.heard_of(message.version, message.patience)
        if message.synchronous:
            # Each version is waited for by who was here when it was made. No longer for that of
            # a session before: the master waits for an update of this one, for the same round.
            self.fresh.need = message.version
        self._published = max(self._published, message.published)
        self._at_least(message.published, newest=newest)
        anew, receives = first or restarted, self._sharing.receives
        self._hears = self._hears and not anew
        if anew and receives:
            actions.append(Subscribe(self._publish_port))
        begins = self._in_place and anew and self.fresh.version < 0
        return [*actions, *self.pull(now)] if receives or begins else actions

    def answered(self, ack: Ack, *, newest: bool) -> None:
        """Note what an answer to an update says of the versions.

        Parameters
        ----------
        newest : bool
            The worker computes on nothing older than what is published, unless it reads
            lazily. Nor does one that has subscribed and hears nothing yet: a short
            partition would be over before that.
        """
        newest = newest or (self._sharing.receives and not self._hears)
        self._published = max(self._published, ack.published)
        self.fresh.heard_of(ack.version, ack.patience)
        self.fresh.need = max(self.fresh.need, ack.need)
        self._at_least(ack.published, newest=newest)

    def _at_least(self, published: int, *, newest: bool) -> None:
        if newest and not self._in_place and self.fresh.lazy_slack is None:
            self.fresh.need = max(self.fresh.need, published)

    def take(self, message: Version, clock: int, now: float, *, ahead: bool) -> list[Action]:
        """Take a version; `ahead` of its limit a worker needs no other.

        One that leaves a gap is asked for.
        """
        if message.run != self._run:
            return []
        held = self.fresh.version
        self.fresh.heard_of(message.version, self.fresh.patience)
        if message.version < held:
            return []
        if message.part:
            new = self.parts.answered(message, held)
            return [Load(message.version, message.part)] if new else []
        if message.start or message.end:
            return self._take_piece(message, clock, now, ahead=ahead)
        self._hears = self._hears or not self.asking
        have = held if held >= 0 else self._pieces.have
        if message.base > have and message.version != held:
            return self.pull(now) if self.session and not self.asking else []
        if held < 0 and message.version < self._pieces.newest:
            return []  # a broadcast of before the last piece
        return self._take_whole(message, clock, ahead=ahead)

    def _take_whole(self, message: Version, clock: int, *, ahead: bool) -> list[Action]:
        """Take what makes the model whole."""
        held = self.fresh.version
        self._pieces.start_over()
        self.fresh.hold(message.version, message.clock)
        if ahead or self.enough(clock):
            self._pulled_at = None
        return [Load(message.version)] if message.version != held else []

    def _take_piece(self, message: Version, clock: int, now: float, *, ahead: bool) -> list[Action]:
        if self.fresh.version >= 0:  # others have brought the model meanwhile
            return self.pull(now) if self.session and self.asking else []
        if not self._pieces.take(message):
            return []
        if not message.end and not self._pieces.mixed:
            return self._take_whole(message, clock, ahead=ahead)
        load = Load(message.version, piece=True)
        return [*self.pull(now), load] if self.session else [load]

    def patient(self, now: float) -> None:
        """Wait on: what was asked stands in line at the master."""
        if self._pulled_at is not None:
            self._pulled_at = now
        self.parts.patient(now)

    def overdue(self, now: float, patience_s: float) -> list[Action]:
        """Ask again for what should have come."""
        again: list[Action] = []
        if self._pulled_at is not None and now - self._pulled_at >= patience_s:
            again += self.pull(now)
        return again + [self._pull_part(p, now) for p in self.parts.overdue(now, patience_s)]

    def _pull_part(self, part: int, now: float) -> SendPull:
        return SendPull(self.parts.ask(part, self.session, self.fresh.version, now))
