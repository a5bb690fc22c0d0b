"""Running a gradient that trains its model in place.

The gradient yields after each chunk of work; what changed in its model is sent from
here, tier by tier, and what others changed is taken in underneath its own progress.
Nobody waits for another worker: an answer is taken in at the first yield after it came.

Each exchange is one step of the ledger: the rows that are due after each chunk, and all
rows at the end. A retry trains through the settled
steps again and sends only what is not settled, so that each tier counts once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from zmqdist.errors import ConfigError
from zmqdist.exchange import InPlaceConnection
from zmqdist.models.numbers import Numbers
from zmqdist.models.progress import Progress
from zmqdist.models.tiers import REFRESH, Ranking, Tiers
from zmqdist.models.update import Update, as_update
from zmqdist.task import END, Data, Task
from zmqdist.wire.rows import RowSparse

LEARNING = 8
"""Exchanges of all rows from which a worker learns which rows move most."""


@dataclass
class InPlace(Task):
    """Runs one partition in place."""

    link: InPlaceConnection
    _sent: dict[int, tuple[Update, int]] = field(default_factory=dict)
    _refreshes: bool = False
    _numbers: Numbers = field(init=False)

    def run(self, data: Iterable[Any], tiers: Tiers) -> None:
        """Train through the partition and exchange progress."""
        ranking = Ranking(self.parameters, tiers)
        progress = self._begin(ranking, tiers)
        source = Data(data, self.link.passes)
        chunks = self.call(0, lambda: self.gradient(self.parameters.model, source))
        if not isinstance(chunks, Iterator):
            raise ConfigError(
                "tiers= is for a gradient that trains the model in place and yields after each "
                f"chunk; this one returned a {type(chunks).__name__}"
            )
        asked: int | None = None
        for chunk in itertools.count(1):
            clock = self.link.next_chunk()
            self._take_in(progress)
            said = self._next(chunks, progress)
            if asked is not None:
                self.link.wait_for_answer(asked)
            self._take_in(progress)
            last, learning = said is END, not ranking.known and chunk <= LEARNING
            tier = None if last or learning else ranking.tier(chunk)
            update, examples = self._yielded(said), source.take_read().n_items
            changes = self._exchange(progress, ranking, tier, update, clock, examples, last)
            if learning:
                ranking.saw(changes)
                ranking.settle()
            self._send_again()
            if last:
                break
            fresh = tiers.fresh and tier is not None
            self._ask(progress, ranking, tier, wait=fresh and not self._refreshes)
            asked = _part(tier) if fresh and self._refreshes else None
        while self.link.in_flight():
            self.link.wait_for_acks()
            self._send_again()
        self._take_in(progress)  # may be of before the last of these
        self.link.end(chunk)

    def _next(self, chunks: Iterator[Any], progress: Progress) -> Any:
        """Let the gradient go on to the end of the chunk; return what it yields there."""
        while (said := self.call(self.summary.steps, lambda: next(chunks, END))) is REFRESH:
            self._refreshes = True
            self._take_in(progress)
        return said

    def _begin(self, ranking: Ranking, tiers: Tiers) -> Progress:
        """Bring the model up to date: the rows that fell due since the partition before."""
        missed = self.link.missed() if ranking.known else None
        tier = None if missed is None else ranking.missed(*missed)
        known = self.link.begin(self.parameters, newest=tier is None)
        progress = Progress(self.parameters, known, tiers.keep_bits)
        self._numbers = Numbers(self.parameters)
        if tier is not None:
            self._ask(progress, ranking, tier, wait=True)
        return progress

    def _ask(self, progress: Progress, ranking: Ranking, tier: int | None, *, wait: bool) -> None:
        """Ask for the rows up to a tier (None: all), and maybe take in what comes."""
        self.link.ask(part := _part(tier), None if tier is None else ranking.rows(tier))
        if wait:
            self.link.wait_for_answer(part)
            self._take_in(progress)

    def _yielded(self, said: Any) -> Update:
        update = Update(None) if said is END else as_update(said)
        if not (update.empty or isinstance(update.arrays, dict)):
            raise ConfigError(
                "a gradient that trains the model in place yields None or a dict of further "
                f"changes ({{'words_done': 2000}}); this one yielded a "
                f"{type(update.arrays).__name__}"
            )
        return update

    def _take_in(self, progress: Progress) -> None:
        for _, tree, held in self.link.answers():
            progress.rebase(tree["arrays"], held)
            self._numbers.rebase(tree["scalars"], held)

    def _exchange(
        self,
        progress: Progress,
        ranking: Ranking,
        tier: int | None,
        said: Update,
        clock: int,
        examples: int,
        last: bool,
    ) -> dict[str, RowSparse]:
        """Send the change of the rows up to a tier (None: all) as the next step; return it."""
        rows = None if tier is None else ranking.rows(tier)
        step, self.summary.steps = self.summary.steps, self.summary.steps + 1
        settled = self.link.settled(step)
        changes = progress.take(rows, step, settled=settled, last=last)
        yielded = {} if said.empty else said.arrays
        numbers = self._numbers.take(step, yielded=yielded, settled=settled)
        if settled:
            self.link.cancel()
            self.summary.replayed += 1
            return changes
        update = Update(
            {**numbers, **yielded, **progress.plain(changes)},
            examples=examples if said.examples is None else said.examples,
            metrics=said.metrics,
        )
        alive = self.link.in_flight()
        self._sent = {s: sent for s, sent in self._sent.items() if s in alive}
        self._sent[step] = update, clock
        self.push(step, self.link.held(_part(tier)), clock, update, 0)
        return changes

    def _send_again(self) -> None:
        """Send what the policy sent back: a difference is as good on a newer version."""
        while (step := self.link.take_requeued()) is not None:
            update, clock = self._sent[step]
            self.push(step, self.link.held(_part(0)), clock, update, 0)


def _part(tier: int | None) -> int:
    """Return the number of a tier's rows among the parts of `zmqdist.core.parts`."""
    return 0 if tier is None else tier + 1
