"""What a master does about checkpoints: nothing without a directory for them."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from zmqdist.core.lineage import Lineage
from zmqdist.core.master_state import MasterState
from zmqdist.core.saving import Saving
from zmqdist.damping import RowDamping
from zmqdist.errors import ConfigError, ZmqdistError
from zmqdist.models.base import Parameters
from zmqdist.options import MasterOptions
from zmqdist.saver import Saver

log = logging.getLogger(__name__)


class Master(Protocol):
    """What of a master is in a checkpoint; `zmqdist.master.Master` describes it."""

    options: MasterOptions
    state: MasterState
    descent: Callable[[Any, Any], object] | None
    damping: RowDamping | None
    buffered: list[Any]


class Checkpoints:
    """The checkpoints of one master, and the one that it goes on from.

    Parameters
    ----------
    options : MasterOptions
    parameters : Parameters
        The model's; loaded from the checkpoint if there is one to go on from.

    Attributes
    ----------
    run : str
        The run's name, that of the checkpoint or a new one.
    lineage : Lineage
        Its incarnations, the master's included.
    saving : Saving
        When checkpoints are to be written.
    """

    def __init__(self, options: MasterOptions, parameters: Parameters) -> None:
        self.run, self.lineage, self.saving = secrets.token_hex(8), Lineage(), Saving()
        self._saver: Saver | None = None
        self._descent: dict[str, Any] | None = None
        if options.checkpoint is not None:
            self._saver = Saver(options, parameters, self.run)
            self.run, self.lineage = self._saver.run, self._saver.lineage
            self.saving = Saving(options.checkpoint_every_s)

    def worker_keys(self) -> list[str]:
        """Return the public keys of workers that may come back."""
        return self._saver.worker_keys() if self._saver is not None else []

    def go_on(self, master: Master) -> list[Any]:
        """Bring a new master to where the checkpoint is; return the updates that wait.

        Raises
        ------
        ConfigError
            It has other options than the master that wrote the checkpoint.
        """
        if self._saver is None:
            return []
        parts = self._saver.parts
        buffered: list[Any] = parts.get("buffered", [])
        if buffered and not master.options.policy.buffers:
            raise ConfigError(
                f"the checkpoint holds {len(buffered)} updates that wait to be merged; "
                f"{master.options.policy!r} merges none: resume with the policy of then"
            )
        if (policy := parts.get("policy")) and policy["state"]:
            _give_back(policy, master.state.policy, "policy")
        if parts.get("damping") and master.damping is not None:
            master.damping.load_state(parts["damping"])
        self._descent = parts.get("descent")
        self._saver.go_on(master.state)
        return buffered

    def lend(self, descent: Any, train: int | None) -> None:
        """Give a descent its state in the checkpoint, once.

        Parameters
        ----------
        descent : callable or None
        train : int or None
            Which `train()` of its program it is for: the state belongs to the one that was
            under way. None always takes it.

        Raises
        ------
        ConfigError
            It is another kind of descent.
        """
        kept = self._descent
        if kept is not None and (train is None or train == kept["train"]):
            _give_back(kept, descent, "descent")
            self._descent = None

    def note(self, master: Master) -> None:
        """Write down which epochs there are."""
        if self._saver is not None:
            self._saver.note(master.state)

    def save(self, master: Master) -> None:
        """Copy everything and have it written."""
        saver, state = self._saver, master.state
        if saver is None:
            return
        self.saving.begin(time.monotonic())
        descent = _kept(master.descent) or self._descent
        if descent is not None and descent is not self._descent:
            descent["train"] = state.epochs.plans.under_way()
        try:
            saver.save(
                state,
                descent=descent,
                policy=_kept(state.policy),
                damping=master.damping.state() if master.damping is not None else None,
                buffered=master.buffered,
            )
        except ZmqdistError as error:
            log.error("no checkpoint of version %d: %s", state.version, error)
            self._saved(master, str(error))

    def look(self, master: Master) -> None:
        """Note it when a checkpoint is written."""
        if self._saver is not None and (trouble := self._saver.done()) is not None:
            self._saved(master, trouble)

    def finish(self, master: Master) -> None:
        """Write what is not written: a clean end loses nothing."""
        if self._saver is None:
            return
        if self._saver.busy:
            self._saved(master, self._saver.wait())
        self.saving.want()
        if self.saving.due(time.monotonic()):
            self.save(master)
            if self._saver.busy:
                self._saved(master, self._saver.wait())

    def close(self) -> None:
        """Let another master use the directory."""
        if self._saver is not None:
            self._saver.close()

    def _saved(self, master: Master, trouble: str) -> None:
        self.saving.end(trouble)
        totals = master.state.totals
        totals.checkpoints += not trouble
        totals.checkpoints_failed += bool(trouble)


def _kept(thing: Any) -> dict[str, Any] | None:
    """Return the state of what offers ``state()`` and ``load_state()``, else None."""
    if not (hasattr(thing, "state") and hasattr(thing, "load_state")):
        return None
    return {"of": _name(thing), "state": thing.state()}


def _give_back(kept: Mapping[str, Any], thing: Any, what: str) -> None:
    if kept["of"] != _name(thing):
        raise ConfigError(
            f"the checkpoint holds the state of {what} {kept['of']}; this is {_name(thing)}: "
            f"resume with the same {what}"
        )
    thing.load_state(kept["state"])


def _name(thing: Any) -> str:
    kind = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{kind.__module__}.{kind.__qualname__}"
