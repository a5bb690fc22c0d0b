"""What dies, comes twice or is interrupted: each batch still counts exactly once."""

import signal
import time

import pytest

pytestmark = pytest.mark.spark


def exact(seen):
    """Assert that a scenario counted each batch once."""
    assert seen["counted"] == seen["version"] == seen["applied"] == seen["batches"]
    return seen


def of_partition(seen, partition):
    """Return (attemptNumber, taskAttemptId) of the attempts that computed."""
    return [tuple(rest) for number, *rest in seen["attempts"] if number == partition]


def figures(name, seen):
    names = ("batches", "counted", "version", "sessions", "duplicates", "attempts", "seconds")
    return f"{name}: " + ", ".join(f"{n} {seen[n]}" for n in names)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_killed_workers_and_executors(start, tmp_path, say):
    answer = start("failures.py", tmp_path).answer(200)
    for name, seen in answer.items():
        say(figures(name, seen))

    worker = exact(answer["worker"])
    assert [attempt for attempt, _ in of_partition(worker, 1)] == [0, 1]
    assert [attempt for attempt, _ in of_partition(worker, 2)] == [0, 1, 2]
    assert worker["sessions"] == worker["partitions"] + 3

    executor = exact(answer["executor"])
    assert of_partition(executor, 1)[0][0] == 0
    assert executor["sessions"] > executor["partitions"]

    shuffle = exact(answer["shuffle"])
    twice = [tid for attempt, tid in of_partition(shuffle, 0) if attempt == 0]
    assert len(twice) == len(set(twice)) == 2  # one attemptNumber, two attempts
    assert shuffle["duplicates"] >= 1
    assert shuffle["sessions"] >= shuffle["partitions"] + 2


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_speculative_copies(start, tmp_path, say):
    seen = exact(start("speculation.py", tmp_path).answer(200))
    say(figures("speculation", seen))
    assert {"1-0", "1-1"} <= set(seen["attempts"])
    assert seen["duplicates"] >= 2
    assert seen["sessions"] >= seen["partitions"] + 1


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_dynamic_allocation_takes_an_executor_and_brings_another(start, tmp_path, say):
    seen = exact(start("allocation.py", tmp_path).answer(200))
    say(figures("dynamic allocation", seen))
    assert len(seen["executors"]) == 3  # of two at a time
    assert seen["failed"] == seen["duplicates"] == 0
    assert seen["sessions"] == seen["partitions"]


@pytest.mark.slow
def test_ctrl_c(start, until, tmp_path, say):
    program = start("interrupt.py", tmp_path)

    def workers():
        assert program.process.poll() is None, program.output(1)
        return [int(path.suffix[1:]) for path in tmp_path.glob("pid.*")]

    pids = until(lambda: len(found := workers()) >= 2 and found, "two busy workers", 90)
    sent_at = time.time()
    program.process.send_signal(signal.SIGINT)
    answer = program.answer(60)
    raised_s, beat_s = answer["raised"] - sent_at, answer["last beat"] - sent_at
    say(
        f"Ctrl-C: raised after {raised_s:.2f} s, last step of a worker after {beat_s:.2f} s, "
        f"the next training took {answer['seconds']:.1f} s"
    )
    assert raised_s < 5
    assert beat_s < raised_s + 0.5  # they were told to stop, not only killed 2 s later
    assert answer["counts"]
    assert answer["job ended"]
    assert answer["again"] == 20
    assert answer["counts again"]
    assert answer["threads"] == []
    until(lambda: not any(map(alive, pids)), "the Python workers to end", 20)


def alive(pid):
    """Whether a process runs; one that has ended may wait for its parent."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
