"""A directory of checkpoints: written whole, checked when read, the last few kept.

docs/reliability.md describes the files, for readers without zmqdist.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from zmqdist.checkpoint.files import (
    PARTIAL,
    HashingStream,
    read_json,
    sha256_of,
    sync_folder,
    write_json,
    writing,
)
from zmqdist.errors import CheckpointError, RemoteProtocolError
from zmqdist.wire.apart import join_tree, split_tree

log = logging.getLogger(__name__)

FORMAT = 2
"""Version of the format; others are refused."""

KEEP = 3
"""Checkpoints that are kept."""

MANIFEST, JOURNAL, LOCK = "manifest.json", "journal.json", "lock"
FIELDS: dict[str, type] = {
    "run": str,
    "incarnation": int,
    "version": int,
    "starts": list,
    "scalars": dict,
    "master": dict,
    "files": dict,
}
"""What a manifest holds besides `state`, and as what."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read.

    Attributes
    ----------
    path : Path
        Where it is.
    run : str
    incarnation, version : int
        Of the master that wrote it.
    starts : list of int
        See `zmqdist.core.lineage.Lineage`.
    scalars : dict
        The model's numbers.
    tree : dict
        What `Store.write` got.
    master : dict
        The state of the protocol, see `zmqdist.core.master_state.MasterState.state`.
    """

    path: Path
    run: str
    incarnation: int
    version: int
    starts: list[int]
    scalars: dict[str, Any]
    tree: dict[str, Any]
    master: dict[str, Any]


class Store:
    """A directory of checkpoints, locked for this process as long as it is open.

    Parameters
    ----------
    folder : path
        Made if it is not there.
    zmqdist : str
        The version of zmqdist that writes.

    Raises
    ------
    CheckpointError
        The directory cannot be used, or another master uses it.
    """

    def __init__(self, folder: str | Path, zmqdist: str = "") -> None:
        self.folder = Path(folder)
        self._zmqdist = zmqdist
        self._lock: int | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._lock, 0)
            os.write(self._lock, f"{socket.gethostname()} process {os.getpid()}\n".encode())
            for left in self.folder.glob(f"{PARTIAL}*"):
                _remove(left)
        except BlockingIOError:
            owner = (self.folder / LOCK).read_text().strip()
            self.close()
            raise CheckpointError(
                f"checkpoint directory {self.folder} is in use by another master ({owner}); end "
                "that one or name another directory"
            ) from None
        except OSError as error:
            self.close()
            raise CheckpointError(
                f"checkpoint directory {self.folder} cannot be used: {error.strerror}; it must be "
                "a local directory that this process may write to"
            ) from None

    def close(self) -> None:
        """Let another master use the directory."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    # ---- the journal ----------------------------------------------------------------------

    def note(self, journal: Mapping[str, Any]) -> None:
        """Write the journal: what has to be known before the next checkpoint."""
        write_json(self.folder / JOURNAL, {"format": FORMAT, **journal})

    @property
    def has_journal(self) -> bool:
        """Whether there is a journal."""
        return (self.folder / JOURNAL).exists()

    def journal(self) -> dict[str, Any] | None:
        """Return the journal, None if there is none.

        Raises
        ------
        CheckpointError
            It is damaged or of another format.
        """
        if not self.has_journal:
            return None
        path = self.folder / JOURNAL
        content: dict[str, Any] = read_json(path)
        _check_format(path, content)
        return content

    # ---- checkpoints ------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Return the names of the checkpoints, oldest first."""
        return sorted(e.name for e in self.folder.iterdir() if e.name.isdigit() and e.is_dir())

    def write(self, spec: Any, arrays: Sequence[NDArray[Any]], facts: Mapping[str, Any]) -> None:
        """Write a checkpoint and remove the oldest ones.

        Parameters
        ----------
        spec, arrays
            Of a tree, see `zmqdist.wire.apart.split_tree`.
        facts : mapping
            run, incarnation, starts, version, arrays and master, as JSON values; scalars as
            numbers, which JSON has not all.

        Raises
        ------
        OSError
            It could not be written; what was there is as before.
        """
        names = self.names()
        name = f"{int(names[-1]) + 1 if names else 1:08d}"
        partial = self.folder / f"{PARTIAL}-{name}"
        try:
            _remove(partial)
            partial.mkdir()
            files = {f"{n}.npy": _save(partial / f"{n}.npy", a) for n, a in enumerate(arrays)}
            content = {
                "format": FORMAT,
                "zmqdist": self._zmqdist,
                "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                **facts,
                "scalars": {n: split_tree(number)[0] for n, number in facts["scalars"].items()},
                "state": spec,
                "files": files,
            }
            write_json(partial / MANIFEST, content)
            partial.rename(self.folder / name)
            sync_folder(self.folder)
        except BaseException:
            _remove(partial)
            raise
        for old in names[: 1 - KEEP]:
            _remove(self.folder / old)

    def newest(self) -> Checkpoint | None:
        """Return the newest checkpoint that is whole, None if there are none at all.

        Raises
        ------
        CheckpointError
            None of them is whole, or the newest is of another format.
        """
        troubles = []
        for name in reversed(self.names()):
            try:
                return self._read(self.folder / name)
            except CheckpointError as error:
                log.error("checkpoint %s is of no use: %s", self.folder / name, error)
                troubles.append(str(error))
        if troubles:
            raise CheckpointError(
                f"no checkpoint of {self.folder} can be used: {'; '.join(troubles)}"
            )
        return None

    def _read(self, path: Path) -> Checkpoint:
        content = read_json(path / MANIFEST)
        _check_format(path, content)
        for name, kind in FIELDS.items():
            if type(content.get(name)) is not kind:
                raise CheckpointError(f"{path / MANIFEST} is damaged: {name} is no {kind.__name__}")
        files = content["files"]
        arrays = [_load(path / f"{n}.npy", files.get(f"{n}.npy")) for n in range(len(files))]
        try:
            tree = join_tree(content.get("state"), arrays)
            scalars = {name: join_tree(entry, []) for name, entry in content["scalars"].items()}
        except RemoteProtocolError as error:
            raise CheckpointError(f"{path / MANIFEST}: {error}") from None
        if not isinstance(tree, dict) or not isinstance(tree.get("arrays"), dict):
            raise CheckpointError(f"{path / MANIFEST} is damaged: it holds no model")
        facts = {name: content[name] for name in FIELDS.keys() - {"files", "scalars"}}
        return Checkpoint(path, scalars=scalars, tree=tree, **facts)


def _check_format(path: Path, content: Any) -> None:
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is damaged: it holds no table")
    if content.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} was written by zmqdist {content.get('zmqdist', '?')} in format "
            f"{content.get('format')!r}; this version reads format {FORMAT}: resume with the "
            "version that wrote it"
        )


def _save(path: Path, array: NDArray[Any]) -> dict[str, Any]:
    with writing(path) as stream:
        hashing = HashingStream(stream)
        np.lib.format.write_array(hashing, array, allow_pickle=False)
    return {"sha256": hashing.hexdigest(), "bytes": hashing.size}


def _load(path: Path, file: Any) -> NDArray[Any]:
    if not isinstance(file, dict) or not {"bytes", "sha256"} <= file.keys():
        raise CheckpointError(f"{path.parent / MANIFEST} is damaged: it knows no {path.name}")
    try:
        size = path.stat().st_size
        if size != file["bytes"]:
            raise CheckpointError(f"{path} has {size} bytes; expected {file['bytes']}")
        if sha256_of(path) != file["sha256"]:
            raise CheckpointError(f"{path} is damaged: its checksum does not match")
        with path.open("rb") as stream:
            return _array(path, stream)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None


def _array(path: Path, stream: BinaryIO) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    except Exception as error:  # whatever numpy's parser of headers raises
        raise CheckpointError(f"{path} holds no array: {error!r:.80}") from None
    return array


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
