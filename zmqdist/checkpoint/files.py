"""Files that are whole or not there: written aside, synced, renamed, and checked when read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from zmqdist.errors import CheckpointError

PARTIAL = ".partial"
"""How the names of what is not whole yet begin."""


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Open a new file for writing; on leaving it is on the disk."""
    with path.open("xb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` on leaving; after an error nothing is left."""
    partial = path.with_name(f"{PARTIAL}-{path.name}")
    partial.unlink(missing_ok=True)
    try:
        with writing(partial) as stream:
            yield stream
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Bring what happened to the names in a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Any) -> None:
    """Write JSON with its own checksum, in place of what was there.

    The file is ``{"sha256": ..., "content": ...}``, where the first is that of the
    content as `json.dumps` writes it with sorted keys and without blanks.
    """
    text = _canonical(content)
    digest = hashlib.sha256(text).hexdigest()
    with replacing(path) as stream:
        stream.write(b'{"sha256": "%s",\n"content": %s}\n' % (digest.encode(), text))


def read_json(path: Path) -> Any:
    """Read what `write_json` wrote.

    Raises
    ------
    CheckpointError
        It is not there, or not what was written.
    """
    try:
        whole = json.loads(path.read_bytes())
        content, digest = whole["content"], whole["sha256"]
        text = _canonical(content)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error!r:.80}") from None
    if hashlib.sha256(text).hexdigest() != digest:
        raise CheckpointError(f"{path} is damaged: its checksum does not match")
    return content


def sha256_of(path: Path) -> str:
    """Return the checksum of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class HashingStream:
    """A binary stream to write to that knows the checksum of what it was given."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, octets: Any) -> int:
        """Write and take into the checksum."""
        self._hash.update(octets)
        self.size += memoryview(octets).nbytes
        return self._stream.write(octets)

    def hexdigest(self) -> str:
        """Return the checksum so far."""
        return self._hash.hexdigest()


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
