"""Memory that the processes of a host share, with no name that could outlive them.

A segment is anonymous memory (memfd_create(2)), which no size of ``/dev/shm`` bounds;
where memory is short, a nameless file in ``SPARK_LOCAL_DIRS``. Either way the kernel
frees it with the last process that has it open, however that process ends. Others
find it by a signpost: a symbolic link to ``/proc/PID/fd/N`` of a process that has it,
in a directory that belongs to the user. A signpost whose process is gone leads nowhere,
and whoever comes next takes it down.

Its locks are open file description locks on single bytes (fcntl(2)). They too end with
the process.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import stat
import struct
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

LOCK_S = 10.0
"""How long a lock is waited for, in seconds, besides the time that the memory takes."""

COPY_BYTES_PER_S = 100e6
"""What a process that holds a lock copies at least."""

_NAP_S = 0.0001
_LONGEST_NAP_S = 0.01


class Unshareable(Exception):
    """There can be no segment here, or this one is of no use any more."""


class Segment:
    """One process's hold on a segment; `join` makes it.

    Attributes
    ----------
    memory : mmap.mmap
        The segment, zeros at first.
    """

    def __init__(self, fd: int, size: int, post: Path) -> None:
        self.memory = _mapped(fd, size)
        self._fd = fd
        self._size = size
        self._end = weakref.finalize(self, _let_go, fd, post, os.getpid())
        _segments.add(self)

    @classmethod
    def join(cls, name: str, size: int, mark: bytes) -> Segment:
        """Join the segment of that name, or make it.

        Parameters
        ----------
        name : str
            Good for a file name.
        size : int
            In bytes.
        mark : bytes
            What the segment begins with.

        Raises
        ------
        Unshareable
        """
        try:
            directory = _directory()
            with _door(directory):
                fd = _find(directory, name, size, mark)
                if fd is None:
                    fd = _make(size)
                    os.pwrite(fd, mark, 0)
                post = directory / f"{name}.{os.getpid()}.{fd}"
                post.unlink(missing_ok=True)
                post.symlink_to(f"/proc/{os.getpid()}/fd/{fd}")
            return cls(fd, size, post)
        except (OSError, AttributeError) as error:  # a system without these calls
            raise Unshareable(f"no shared memory of {size:,} bytes here: {error}") from None

    def close(self) -> None:
        """Let go of it; its locks too. The memory stays while arrays look at it."""
        self._end()

    def try_lock(self, byte: int, *, exclusive: bool) -> bool:
        """Lock a byte, or say that others have it."""
        try:
            self._lock(fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK, byte)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def lock(self, byte: int, *, exclusive: bool) -> None:
        """Lock a byte.

        Raises
        ------
        Unshareable
            A process has had the lock for longer than it can need it: it is suspended.
        """
        until = time.monotonic() + LOCK_S + self._size / COPY_BYTES_PER_S
        for nap_s in _naps():
            if self.try_lock(byte, exclusive=exclusive):
                return
            if time.monotonic() > until:
                raise Unshareable("a process that is suspended holds the lock on it")
            threading.Event().wait(nap_s)

    def unlock(self, byte: int) -> None:
        """Unlock a byte."""
        self._lock(fcntl.F_UNLCK, byte)

    def _lock(self, kind: int, byte: int) -> None:
        # struct flock of 64-bit Linux: type, whence, start, length, process (0 here)
        asked = struct.pack("hhqqi4x", kind, os.SEEK_SET, byte, 1, 0)
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, asked)


_segments: weakref.WeakSet[Segment] = weakref.WeakSet()


def _let_go(fd: int, post: Path, pid: int) -> None:
    if os.getpid() == pid:
        post.unlink(missing_ok=True)
    os.close(fd)


def _let_all_go() -> None:
    """In a child process: the locks are to end with the parent, whatever the child does."""
    for segment in list(_segments):
        segment.close()


os.register_at_fork(after_in_child=_let_all_go)


def _naps() -> Iterator[float]:
    nap_s = _NAP_S
    while True:
        yield nap_s
        nap_s = min(1.5 * nap_s, _LONGEST_NAP_S)


def _mapped(fd: int, size: int) -> mmap.mmap:
    # mmap keeps a duplicate of its descriptor, which would keep the locks of `fd` as well
    own = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    try:
        return mmap.mmap(own, size)
    finally:
        os.close(own)


# ---- finding it -------------------------------------------------------------------------


def _directory() -> Path:
    """Return the directory of the user's signposts, which nobody else may write to."""
    path = Path(tempfile.gettempdir()) / f"zmqdist-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    info = path.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o077:
        raise Unshareable(f"{path} is not a directory of this user alone")
    return path


@contextlib.contextmanager
def _door(directory: Path) -> Iterator[None]:
    """Let one process in at a time."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    until = time.monotonic() + LOCK_S
    try:
        for nap_s in _naps():
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise Unshareable(f"{directory} is locked by a suspended process") from None
                threading.Event().wait(nap_s)
        yield
    finally:
        os.close(fd)


def _find(directory: Path, name: str, size: int, mark: bytes) -> int | None:
    """Open the segment through one of the processes that have it."""
    found: int | None = None
    for post in directory.iterdir():
        if found is None and post.name.startswith(f"{name}."):
            found = _opened(post, size, mark)
        if not post.exists():
            post.unlink(missing_ok=True)
    return found


def _opened(post: Path, size: int, mark: bytes) -> int | None:
    """Open what a signpost leads to, if that is the segment (numbers are used again)."""
    try:
        fd = os.open(post, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    info = os.fstat(fd)
    if info.st_nlink == 0 and info.st_size == size and os.pread(fd, len(mark), 0) == mark:
        return fd
    os.close(fd)
    return None


# ---- making it --------------------------------------------------------------------------


def _make(size: int) -> int:
    """Return a descriptor of so many bytes that nothing on the host names."""
    if size <= _available_bytes():
        fd = os.memfd_create("zmqdist-replica", os.MFD_CLOEXEC)
        try:
            os.posix_fallocate(fd, 0, size)  # or the first page that is not there is a SIGBUS
            return fd
        except OSError:
            os.close(fd)
    for directory in filter(None, os.environ.get("SPARK_LOCAL_DIRS", "").split(",")):
        with contextlib.suppress(OSError):
            room = os.statvfs(directory)
            if size <= room.f_bavail * room.f_frsize:
                with tempfile.TemporaryFile(dir=directory) as file:
                    os.posix_fallocate(file.fileno(), 0, size)
                    return os.dup(file.fileno())
    raise Unshareable(
        f"neither memory nor SPARK_LOCAL_DIRS ({os.environ.get('SPARK_LOCAL_DIRS')}) has room "
        f"for {size:,} bytes"
    )


def _available_bytes() -> float:
    """Return the memory that can be had without swapping (``MemAvailable`` of proc(5))."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return float("inf")
