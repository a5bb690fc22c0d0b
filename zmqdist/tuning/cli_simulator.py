"""The commands of `zmqdist-tune` about the simulator alone: `simulate`."""

from __future__ import annotations

import argparse
import json
import math
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zmqdist.errors import ConfigError
from zmqdist.staleness import parse_policy
from zmqdist.tuning import theory
from zmqdist.tuning.cluster import Cluster
from zmqdist.tuning.export import write_json
from zmqdist.tuning.observer import Simulated
from zmqdist.tuning.simulate import simulate

SIMULATE = """\
Simulate the times of a run: throughput, staleness and waits of a policy on a cluster,
without a model. The cluster is a JSON file of Cluster.save, or a TOML file with a
table [cluster], such as a study file.

examples:
  zmqdist-tune simulate examples/studies/digits.toml --workers 1000 --staleness bounded:64
  zmqdist-tune simulate cluster.json --workers 16 --staleness ssp:3:lazy --json
"""


def add_simulate(commands: Any) -> None:
    """Add the command `simulate`."""
    made = commands.add_parser(
        "simulate",
        help="simulate the times of a run on a cluster, without a model",
        description=SIMULATE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.set_defaults(run=_simulate)
    add = made.add_argument
    add("study", type=Path, metavar="CLUSTER", help="a file, see above")
    add("--workers", type=int, metavar="N", help="default: the file's")
    add("--staleness", default="async", metavar="POLICY", help="(default: %(default)s)")
    add("--updates", type=int, default=20_000, metavar="N", help="applied (default: %(default)s)")
    add("--max-in-flight", type=int, default=1, metavar="N", help="(default: %(default)s)")
    add("--publish-every", type=int, metavar="N", help="versions (default: as costs allow)")
    add("--seed", type=int, default=0, help="(default: %(default)s)")
    add("--json", action="store_true", help="for programs")


def read_cluster(path: Path, workers: int | None) -> Cluster:
    """Read a cluster from a JSON or TOML file.

    Raises
    ------
    ConfigError
        The file cannot be read, holds no cluster, or does not say how many workers.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)["cluster"]
    except OSError as error:
        raise ConfigError(f"cannot read the cluster {path}: {error.strerror}") from None
    except KeyError:
        raise ConfigError(f"{path} has no table [cluster]") from None
    except ValueError as error:
        raise ConfigError(f"{path} is neither JSON nor TOML of a cluster: {error}") from None
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path} holds a {type(values).__name__}; expected a table")
    if workers is None and "workers" not in values:
        raise ConfigError(f"{path} does not say how many workers; add --workers N")
    return Cluster.from_dict({**values, "workers": workers or values["workers"]})


def _simulate(options: argparse.Namespace) -> int:
    cluster = read_cluster(options.study, options.workers)
    result = simulate(
        cluster,
        staleness=parse_policy(options.staleness),
        max_updates=options.updates,
        max_in_flight=options.max_in_flight,
        publish_every=options.publish_every,
        seed=options.seed,
    )
    figures = facts(result, cluster.workers)
    if options.json:
        write_json(figures, sys.stdout)
        return 0
    width = max(map(len, figures))
    for name, value in figures.items():
        sys.stdout.write(f"{name:<{width}}  {value:,.4g}\n")
    return 0


def facts(result: Simulated, workers: int) -> dict[str, float]:
    """Return what a simulation without a model shows, by name; times are virtual seconds."""
    record = result.record
    arrived = len(record["time_s"])
    applied = record["tau"][record["decision"] == "applied"]
    p50, p99 = np.percentile(applied, [50, 99]) if len(applied) else (math.nan, math.nan)
    whole_s = workers * result.seconds
    service_s = result.busy_s / max(1, arrived)
    compute_s = float(record["compute_s"].mean()) if arrived else math.nan
    return {
        "workers": workers,
        "seconds": result.seconds,
        "updates applied": result.applied,
        "updates applied per s": result.throughput,
        "part applied": result.applied / max(1, arrived),
        "staleness mean": result.staleness_mean,
        "staleness median": float(p50),
        "staleness 99 %": float(p99),
        "staleness max": max(result.staleness, default=0),
        "part of time computing": float(record["compute_s"].sum()) / whole_s,
        "part of time held back": float(record["wait_gate_s"].sum()) / whole_s,
        "part of time waiting for answers": float(record["wait_ack_s"].sum()) / whole_s,
        "master busy": result.busy_s / result.seconds,
        "workers that keep the master busy": theory.knee(compute_s, service_s),
        "events per second of this machine": result.events / max(result.wall_s, 1e-9),
    }
