"""Looking a broadcast up finds what delivering it would have."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zmqdist.tuning.cluster import Cluster
from zmqdist.tuning.delays import Constant
from zmqdist.tuning.publications import NOTHING, Held, Publications

times = st.floats(0, 100).map(lambda t: round(t, 1))  # so that some coincide


@given(
    gaps=st.lists(times, min_size=1, max_size=30),
    looks=st.lists(times, min_size=1, max_size=10),
    latency=st.sampled_from([0.0, 0.1, 5.0]),
    copy=st.sampled_from([0, 1, 10]),
    workers=st.integers(1, 4),
    forget=st.booleans(),
)
def test_held_is_the_newest_that_has_arrived(
    gaps: list[float],
    looks: list[float],
    latency: float,
    copy: int,
    workers: int,
    forget: bool,
) -> None:
    cluster = Cluster(
        workers=workers,
        compute=Constant(1.0),
        latency_s=latency,
        version_bytes=copy,
        master_out_bytes_s=10.0,
        line_bytes_s=20.0,
    )
    publications = Publications(cluster)
    now = free = 0.0
    arrivals: list[tuple[list[float], Held]] = []
    looks = sorted(looks)
    for version, gap in enumerate(gaps):
        now += gap / 10
        left = max(now, free)
        free = left + copy / 10 * workers
        held = Held(version, version // 2, None)
        line = latency + copy / 20
        arrivals.append(([left + copy / 10 * (w + 1) + line for w in range(workers)], held))
        publications.add(held, now)
    for look in looks:
        if forget:
            publications.forget(look)
        for worker in range(workers):
            there = [held for at, held in arrivals if at[worker] <= look]
            assert publications.held(worker, look) == (there[-1] if there else NOTHING)
            for version, clock in ((0, -1), (len(gaps) // 2, -1), (-1, 1), (len(gaps), -1)):
                ahead = [
                    at[worker] for at, h in arrivals if h.version >= version and h.clock >= clock
                ]
                found = publications.reaches(worker, version, clock)
                if not ahead or ahead[0] > look or not forget:
                    assert found == (ahead[0] if ahead else None)
                else:
                    assert found is not None
                    assert found <= look  # what everybody has may be forgotten
