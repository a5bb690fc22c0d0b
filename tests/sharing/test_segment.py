"""Memory shared by real processes: found by name, freed by the kernel, locked fairly."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sharing.elsewhere import Elsewhere
from tests.support import eventually
from zmqdist.sharing import segment
from zmqdist.sharing.segment import Segment, Unshareable

SIZE = 1 << 16
MARK = b"m" * 32
SETUP = f"""
import os, signal
from zmqdist.sharing.segment import Segment
def join(name="one", mark={MARK!r}): return Segment.join(name, {SIZE}, mark)
"""


def join(name: str = "one", mark: bytes = MARK) -> Segment:
    return Segment.join(name, SIZE, mark)


def signposts() -> list[Path]:
    return list(segment._directory().iterdir())


def test_processes_see_the_same_memory() -> None:
    mine = join()
    with Elsewhere(SETUP) as other:
        other.do("s = join(); s.memory[100:103] = b'abc'")
        assert mine.memory[100:103] == b"abc"
        assert len(signposts()) == 2
    with Elsewhere(SETUP) as third:
        assert third.do("s = join(); answer = s.memory[100:103]") == b"abc"
    mine.close()


def test_names_are_apart() -> None:
    one, two = join("one"), join("two")
    one.memory[100] = 1
    assert two.memory[100] == 0
    assert one.try_lock(0, exclusive=True)
    assert two.try_lock(0, exclusive=True)
    one.close()
    two.close()


def test_nothing_is_left_when_all_are_killed() -> None:
    with Elsewhere(SETUP) as a, Elsewhere(SETUP) as b:
        a.do("s = join(); s.memory[100] = 7")
        assert b.do("s = join(); answer = s.memory[100]") == 7
        # No process can hold a name for it: there is none.
        held = os.readlink(next(iter(signposts())).readlink())
        assert held.endswith("(deleted)")
    assert all(not post.exists() for post in signposts()), "the memory outlives its processes"
    late = join("two")
    assert [post.name.partition(".")[0] for post in signposts()] == ["two"]
    fresh = join("one")
    assert fresh.memory[100] == 0
    late.close()
    fresh.close()
    assert signposts() == []


def test_a_clean_end_takes_its_signpost_down() -> None:
    with Elsewhere(SETUP) as other:
        other.begin("s = join(); raise SystemExit")
        other.wait()
        assert signposts() == []


def test_a_signpost_to_something_else_is_passed_over(tmp_path: Path) -> None:
    """Process numbers and descriptors are used again."""
    file = tmp_path / "file"
    file.write_bytes(MARK + bytes(SIZE - len(MARK)))
    other = join("two", b"n" * 32)
    with file.open("r+b") as opened:
        for fd in (opened.fileno(), other._fd):
            (segment._directory() / f"one.1.{fd}").symlink_to(f"/proc/{os.getpid()}/fd/{fd}")
        mine = join()
        mine.memory[100] = 1
    assert file.read_bytes()[100] == 0
    assert other.memory[100] == 0
    mine.close()
    other.close()


def test_a_directory_open_to_others_is_refused() -> None:
    segment._directory().chmod(0o777)
    with pytest.raises(Unshareable, match="not a directory of this user alone"):
        join()


# ---- where it lies ----------------------------------------------------------------------


def test_short_memory_takes_a_nameless_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment, "_available_bytes", lambda: SIZE - 1)
    disk = tmp_path / "disk"
    disk.mkdir()
    monkeypatch.setenv("SPARK_LOCAL_DIRS", f"/nowhere,{disk}")
    mine = join()
    assert str(disk) in os.readlink(f"/proc/self/fd/{mine._fd}")
    assert list(disk.iterdir()) == []
    with Elsewhere(SETUP) as other:
        other.do("s = join(); s.memory[100] = 5; answer = s.try_lock(1, exclusive=True)")
        assert mine.memory[100] == 5
        assert not mine.try_lock(1, exclusive=False)
    mine.close()


@pytest.mark.parametrize("directories", ["", "/nowhere"])
def test_no_room_at_all(monkeypatch: pytest.MonkeyPatch, directories: str) -> None:
    monkeypatch.setattr(segment, "_available_bytes", lambda: 0)
    monkeypatch.setenv("SPARK_LOCAL_DIRS", directories)
    with pytest.raises(Unshareable, match="neither memory nor SPARK_LOCAL_DIRS"):
        join()


def test_a_full_disk_is_seen_beforehand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(segment, "_available_bytes", lambda: 0)
    monkeypatch.setenv("SPARK_LOCAL_DIRS", str(tmp_path))
    room = os.statvfs(tmp_path)
    with pytest.raises(Unshareable, match="has room"):
        Segment.join("one", (room.f_bavail + 1) * room.f_frsize, MARK)


def test_a_system_without_these_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(Unshareable, match="memfd_create"):
        join()


def test_a_tiny_dev_shm_does_not_matter() -> None:
    """Docker gives 64 MB by default."""
    unshare = shutil.which("unshare")
    mount = ["sh", "-c", 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$0" -c "$1"']
    code = "from zmqdist.sharing.segment import *; Segment.join('one', 1 << 24, b'm').memory[-1]"
    command = [str(unshare), "--mount", *mount, sys.executable, code]
    if unshare is None or subprocess.run([*command[:-2], "true"], check=False).returncode == 1:
        pytest.skip("no right to mount here")
    subprocess.run(command, check=True)


# ---- locks ------------------------------------------------------------------------------


def locked(other: Elsewhere, byte: int = 0) -> None:
    assert other.do(f"s = join(); answer = s.try_lock({byte}, exclusive=True)") is True


def test_a_lock_ends_with_its_process() -> None:
    mine = join()
    with Elsewhere(SETUP) as other:
        locked(other)
        assert not mine.try_lock(0, exclusive=True)
        assert not mine.try_lock(0, exclusive=False)
    assert mine.try_lock(0, exclusive=True)
    mine.close()


def test_a_lock_does_not_live_on_in_a_child() -> None:
    """User code may fork, and the child outlive the worker."""
    mine = join()
    with Elsewhere(SETUP) as other:
        locked(other)
        child = other.do("answer = os.fork()\nif not answer: signal.pause()")
    try:
        os.kill(child, 0)
        eventually(lambda: mine.try_lock(0, exclusive=True), "that the child let go of it")
    finally:
        os.kill(child, 9)
    mine.close()


def test_many_read_or_one_writes() -> None:
    mine = join()
    with Elsewhere(SETUP) as other:
        assert other.do("s = join(); answer = s.try_lock(2, exclusive=False)") is True
        assert mine.try_lock(2, exclusive=False)
        assert not mine.try_lock(2, exclusive=True)
        other.do("s.unlock(2)")
        assert mine.try_lock(2, exclusive=True)
    mine.close()


def test_a_suspended_holder_does_not_hold_us_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "LOCK_S", 0.05)
    mine = join()
    with Elsewhere(SETUP) as other:
        locked(other)
        other.suspend()
        with pytest.raises(Unshareable, match="suspended holds the lock"):
            mine.lock(0, exclusive=False)
    mine.lock(0, exclusive=False)
    mine.close()


def test_two_in_one_process_exclude_each_other() -> None:
    one, two = join(), join()
    assert one.try_lock(0, exclusive=True)
    assert not two.try_lock(0, exclusive=True)
    one.close()
    assert two.try_lock(0, exclusive=True)
    two.close()


def test_close_may_be_repeated() -> None:
    mine = join()
    memory = mine.memory
    mine.close()
    mine.close()
    assert memory[:2] == b"mm"
