"""`zmqdist-tune calibrate`: a cluster for the simulator from the record of a real run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zmqdist.errors import ConfigError
from zmqdist.record import read_record
from zmqdist.staleness import parse_policy
from zmqdist.tuning.calibrate import calibrate, compare
from zmqdist.tuning.simulate import simulate

CALIBRATE = """\
Fit the simulator's cluster to a recorded run (ZmqDist(record=...), zmqdist-master --record)
and write it as JSON, which 'zmqdist-tune simulate' reads.
Of a file with several runs the last one counts. With --validate, runs with other numbers
of workers are predicted with that cluster and compared with what was recorded.
With --replay, each simulated worker takes the times of one that was recorded, in their
order: 'simulate' then shows what another policy would have made of that very run.

examples:
  zmqdist-tune calibrate four.csv -o cluster.json --max-in-flight 1 --validate eight.csv
  zmqdist-tune calibrate four.csv -o again.json --replay
  zmqdist-tune simulate again.json --staleness bounded:2
"""

COMPARED = {
    "throughput": "updates per second, relative error",
    "mean_staleness": "mean staleness, relative error",
    "staleness_distance": "staleness, Kolmogorov-Smirnov distance",
    "accepted": "part applied, difference",
}


def add_calibrate(commands: Any) -> None:
    """Add the command `calibrate`."""
    made = commands.add_parser(
        "calibrate",
        help="fit the simulator's cluster to the record of a real run",
        description=CALIBRATE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.set_defaults(run=_calibrate)
    add = made.add_argument
    add("study", type=Path, metavar="RECORD.csv")
    add("-o", "--output", type=Path, default=Path("cluster.json"), help="(default: %(default)s)")
    add("--staleness", default="async", metavar="POLICY", help="of the runs (default: %(default)s)")
    add("--max-in-flight", type=int, default=2, metavar="N", help="of the runs (default: 2)")
    add("--publish-every", type=int, metavar="N", help="of the runs")
    add("--replay", action="store_true", help="recorded times in their order, nothing fitted")
    add("--validate", type=Path, nargs="+", default=[], metavar="RECORD.csv")


def last_run(path: Path) -> dict[str, NDArray[Any]]:
    """Read a record and return the columns of its last run, its workers numbered by process.

    The record's own numbers are those of sessions, of which a worker has one after another.

    Raises
    ------
    ConfigError
        The file cannot be read, or holds no run.
    """
    try:
        record = read_record(path)
    except OSError as error:
        raise ConfigError(f"cannot read the record {path}: {error.strerror}") from None
    if not record.runs or not len(record.columns["time_s"]):
        raise ConfigError(f"the record {path} has no updates")
    run = record.columns["run"][-1]
    rows = np.flatnonzero(record.columns["run"] == run)
    columns = {name: column[rows] for name, column in record.columns.items()}
    processes = [record.workers.get((run, int(n)), str(n)) for n in columns["worker"]]
    columns["worker"] = np.unique(processes, return_inverse=True)[1]
    return columns


def _calibrate(options: argparse.Namespace) -> int:
    run: dict[str, Any] = {
        "staleness": parse_policy(options.staleness),
        "max_in_flight": options.max_in_flight,
        "publish_every": options.publish_every,
    }
    found = calibrate(last_run(options.study), replay=options.replay, **run)
    found.cluster.save(options.output)
    say = sys.stdout.write
    say(f"{options.output}: {found.cluster.workers} workers\n")
    for fit in [] if options.replay else found.fits[:3]:
        say(f"  computing times: {fit.delay}, AIC {fit.aic:.1f}, distance {fit.distance:.3f}\n")
    say(f"  tail index {found.tail_index:.2f}, autocorrelation {found.autocorrelation:.2f}\n")
    for path in options.validate:
        seen = last_run(path)
        workers = len(np.unique(seen["worker"]))
        steps = int(np.sum(seen["decision"] == "applied"))
        cluster = found.cluster.with_workers(workers)
        errors = compare(seen, simulate(cluster, max_updates=steps, **run).record)
        say(f"{path}: {workers} workers, {steps} updates, simulation less run\n")
        for name, text in COMPARED.items():
            say(f"  {text}: {getattr(errors, name):+.1%}\n")
    return 0
