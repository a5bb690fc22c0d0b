"""The checkpoints of a running master: copied in its thread, written in another.

The copy is one consistent cut: the model, what belongs to it, and the ledger, all as of
the same version. It costs one pass over the memory, into buffers that are used again;
the files are made while the master goes on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zmqdist.checkpoint.store import Checkpoint, Store
from zmqdist.core.lineage import Lineage
from zmqdist.core.master_state import MasterState
from zmqdist.errors import CheckpointError, ModelMismatch
from zmqdist.models.base import Parameters
from zmqdist.options import MasterOptions
from zmqdist.wire.apart import split_tree

log = logging.getLogger(__name__)


class Saver:
    """Writes the checkpoints of one master, and knows the one that it goes on from.

    Parameters
    ----------
    options : MasterOptions
        Its `checkpoint` is not None.
    parameters : Parameters
        The model's; loaded from the checkpoint if there is one to go on from.
    run : str
        Name of the run if this one begins it.

    Attributes
    ----------
    run : str
        The run's name.
    lineage : Lineage
        Its incarnations, this one included.
    parts : dict
        What the checkpoint holds beside the model: descent, policy, damping, buffered.

    Raises
    ------
    CheckpointError
        The directory cannot be used, or has nothing to go on from.
    ModelMismatch
        The checkpoint is of another model.
    """

    def __init__(self, options: MasterOptions, parameters: Parameters, run: str) -> None:
        assert options.checkpoint is not None  # noqa: S101 - tells the type checker
        self._store = Store(options.checkpoint, version("zmqdist"))
        self._parameters = parameters
        self._buffers: list[NDArray[Any]] = []
        self._thread: threading.Thread | None = None
        self._trouble = ""
        self.run, self.lineage = run, Lineage()
        self.parts: dict[str, Any] = {}
        self._master: dict[str, Any] | None = None
        self._journal: dict[str, Any] | None = None
        try:
            self._find(options.resume)
            self._write_journal({"open": [], "closed": [], "plans": []} | self._epochs())
        except OSError as error:
            self._store.close()
            raise CheckpointError(
                f"cannot write to checkpoint directory {self._store.folder}: {error.strerror}"
            ) from None
        except BaseException:
            self._store.close()
            raise

    def worker_keys(self) -> list[str]:
        """Return the public keys of workers that may come back."""
        epochs = [self._epochs(), (self._master or {}).get("epochs", {})]
        records = [r for e in epochs for kind in ("open", "closed") for _, r in e.get(kind, [])]
        return sorted({record["worker_key"] for record in records} - {""})

    def go_on(self, state: MasterState) -> None:
        """Bring a new state to where the checkpoint and the journal are."""
        now = time.monotonic()
        if self._master is not None:
            state.load_state(self._master, now)
        if self._journal is not None:
            state.epochs.learn(self._epochs(), now)
        self._master = self._journal = None

    # ---- writing --------------------------------------------------------------------------

    def note(self, state: MasterState) -> None:
        """Write the journal: which epochs there are."""
        try:
            self._write_journal(state.epochs.journal())
        except OSError as error:
            log.error(
                "cannot write to %s: %s; should this master end now, tasks of the epochs since "
                "the last checkpoint will fail",
                self._store.folder,
                error.strerror,
            )

    def save(self, state: MasterState, **parts: Any) -> None:
        """Copy everything and have it written; `done` says when that is over.

        Raises
        ------
        ModelError, UpdateError
            The model is not what it was, or a part holds what cannot be kept.
        """
        arrays = self._parameters.arrays()
        spec, live = split_tree({"arrays": arrays, **parts})
        self._copy(live)
        facts = {
            "run": self.run,
            "incarnation": self.lineage.incarnation,
            "starts": self.lineage.starts,
            "version": state.version,
            "arrays": {name: f"{number}.npy" for number, name in enumerate(arrays)},
            "scalars": self._parameters.scalars(),
            "master": state.state(),
        }
        self._thread = threading.Thread(
            target=self._write, args=(spec, len(live), facts), name="zmqdist-checkpoint"
        )
        self._thread.start()

    def done(self) -> str | None:
        """Return "" once the checkpoint is on the disk, or what went wrong; None before."""
        if self._thread is None or self._thread.is_alive():
            return None
        return self.wait()

    def wait(self) -> str:
        """Wait for the checkpoint that is being written; return what went wrong."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
        trouble, self._trouble = self._trouble, ""
        return trouble

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written and was not asked for yet."""
        return self._thread is not None

    def close(self) -> None:
        """Let another master use the directory."""
        self.wait()
        self._store.close()

    def _copy(self, live: list[NDArray[Any]]) -> None:
        del self._buffers[len(live) :]
        for number, array in enumerate(live):
            if number == len(self._buffers):
                self._buffers.append(np.empty_like(array))
            buffer = self._buffers[number]
            if (buffer.shape, buffer.dtype) != (array.shape, array.dtype):
                self._buffers[number] = buffer = np.empty_like(array)
            np.copyto(buffer, array)

    def _write(self, spec: Any, count: int, facts: Mapping[str, Any]) -> None:
        at, folder = facts["version"], self._store.folder
        try:
            self._store.write(spec, self._buffers[:count], facts)
        except Exception as error:
            self._trouble = getattr(error, "strerror", None) or str(error) or type(error).__name__
            log.error(
                "no checkpoint of version %d in %s: %s; the one before stays, training goes on",
                at,
                folder,
                self._trouble,
            )
        else:
            log.info("checkpoint of version %d in %s", at, folder)

    def _write_journal(self, epochs: Mapping[str, Any]) -> None:
        self._store.note({"run": self.run, "starts": self.lineage.starts, "epochs": epochs})

    # ---- going on ------------------------------------------------------------------------------

    def _find(self, resume: bool | str) -> None:
        found, journal = None, None
        anything = self._store.names() or self._store.has_journal
        if anything and not resume:
            raise CheckpointError(
                f"{self._store.folder} holds checkpoints of an earlier run: pass resume=True "
                "(--resume) to go on from them, or name another directory"
            )
        if resume:
            found, journal = self._store.newest(), self._store.journal()
        if resume is True and not anything:
            raise CheckpointError(
                f"there is no checkpoint in {self._store.folder}: check the path, or start without "
                'resume; resume="auto" goes on if there is something'
            )
        if found is None and journal is None:
            return
        starts = journal["starts"] if journal is not None else found.starts if found else []
        self.run = journal["run"] if journal is not None else found.run if found else self.run
        self.lineage = Lineage([*starts, found.version if found is not None else 0])
        self._journal = journal
        if found is not None:
            self._load(found)
        log.info(
            "run %s goes on from version %d, incarnation %d, of %s",
            self.run,
            self.lineage.starts[-1],
            self.lineage.incarnation,
            found.path if found is not None else "the model as it was made",
        )

    def _load(self, found: Checkpoint) -> None:
        self.parts = {name: part for name, part in found.tree.items() if name != "arrays"}
        self._master = found.master
        arrays = found.tree["arrays"]
        schema = {name: (array.dtype.str, array.shape) for name, array in arrays.items()}
        try:
            self._parameters.check(schema)
            self._parameters.load(arrays, found.scalars)
        except ModelMismatch as error:
            raise ModelMismatch(
                f"checkpoint {found.path} is of another model: {error}", **vars(error)
            ) from None

    def _epochs(self) -> dict[str, Any]:
        return dict((self._journal or {}).get("epochs", {}))
