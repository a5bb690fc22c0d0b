"""What `python -m benchmarks chaos` says of a run follows from what its witness saw."""

from __future__ import annotations

from benchmarks._chaos import Run, Shape, judged, summed

SHAPE = Shape(partitions=2, steps=3)
ALL = [(p, step) for p in range(2) for step in range(3)]


def seen(items: list[tuple[int, int]], gap_s: float = 1.0) -> list[tuple[float, int, int, int]]:
    return [(10 + gap_s * i, p, step, 99) for i, (p, step) in enumerate(items)]


def test_all_is_well() -> None:
    run = judged(seen(ALL), SHAPE, None)
    assert run == Run(expected=6, applied=6, longest_stall_s=1.0)
    assert run.exact


def test_a_lost_one_and_one_that_came_twice_are_both_seen() -> None:
    run = judged(seen([*ALL[:5], ALL[0]]), SHAPE, None)
    assert (run.expected, run.applied, run.lost, run.duplicated) == (6, 6, 1, 1)
    assert not run.exact
    assert not judged(seen(ALL[1:]), SHAPE, None).exact
    assert judged(seen([*ALL, *ALL, ALL[2]]), SHAPE, None).duplicated == 7


def test_stalls_and_recovery() -> None:
    late = [*seen(ALL[:4]), (20.5, 1, 1, 99), (21.0, 1, 2, 99)]
    assert judged(late, SHAPE, None).longest_stall_s == 7.5
    assert judged(late, SHAPE, (14.0, 1, None)).recovery_s == 6.5
    assert judged(late, SHAPE, (14.0, None, None)).recovery_s == 6.5
    assert judged(late, SHAPE, (14.0, 0, None)).recovery_s is None  # it had ended
    of_the_dead = [*late[:4], (14.1, 1, 1, 13), *late[5:]]
    assert judged(of_the_dead, SHAPE, (14.0, 1, 13)).recovery_s == 7.0


def test_what_is_left_behind_or_fails_is_not_exact() -> None:
    assert not Run(left_behind=1).exact
    assert not Run(error="TrainError").exact


def test_many_runs() -> None:
    row = summed([Run(6, 6, recovery_s=1.0), Run(6, 5, lost=1, recovery_s=3.0), Run(6, 6)])
    assert (row["runs"], row["exact"], row["lost"], row["expected"]) == (3, 2, 1, 18)
    assert (row["recovery_median_s"], row["recovery_max_s"]) == (2.0, 3.0)
