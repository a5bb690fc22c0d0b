"""Trainings under faults: what each costs, and whether each update counts exactly once.

Each run sends updates with names of their own, to a witness. A fault is one entry of
FAULTS: a function of a seed that trains, does harm, and returns a `Run`.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks import _chaos_master, _chaos_network
from benchmarks._chaos import (
    Run,
    Shape,
    kill_a_worker,
    leftovers,
    nothing,
    own_folder,
    run,
    summed,
    suspend_a_worker,
)
from benchmarks._harness import aligned
from benchmarks._machine import load, machine
from zmqdist.testing import faults
from zmqdist.testing.network import obstacle

ROOT = Path(__file__).parents[1]


def worker_killed(seed):
    """SIGKILL to a random worker at a random moment."""
    return run(seed, kill_a_worker)


def worker_suspended(seed):
    """SIGSTOP to a random worker for longer than the lease, then SIGCONT."""
    return run(seed, suspend_a_worker)


def killed_at(point):
    """Return a fault: workers are killed at a named point, three times."""

    def fault(seed):
        with faults(seed=seed, kill={point: 0.05}, max_kills=3) as injected:
            seen = run(seed, nothing, wrap=injected.gradient)
        seen.facts |= dict(injected.counts)
        return seen

    return fault


def messages(**rates):
    """Return a fault: so many messages meet with an accident."""

    def fault(seed):
        with faults(seed=seed, **rates) as injected:
            seen = run(seed, nothing)
        seen.facts |= dict(injected.counts)
        return seen

    return fault


def driver_killed(seed):
    """SIGKILL to a driver with its master: its workers must end by themselves."""
    chance, shape = random.Random(seed), Shape(steps=10_000)
    order = [sys.executable, "-m", "benchmarks._chaos_driver", json.dumps(asdict(shape))]
    seen = Run()
    with (
        own_folder(),
        subprocess.Popen(
            order, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
        ) as driver,
    ):
        for _ in range(chance.randrange(1, 200)):
            driver.stdout.readline()
        before = members(driver.pid)
        driver.kill()
        killed = time.monotonic()
        while members(driver.pid) - {driver.pid} and time.monotonic() < killed + 60:
            time.sleep(0.02)
        seen.recovery_s = round(time.monotonic() - killed, 3)
        seen.left_behind = len(members(driver.pid) - {driver.pid}) + len(leftovers())
        seen.facts = {"processes": len(before)}
        with contextlib.suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)
    return seen


def members(session):
    """Return the live processes of a session."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, *rest = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(rest[2]) == session and state not in "ZX":
                found.add(int(entry.name))
    return found


FAULTS = {
    "none": lambda seed: run(seed, nothing),
    "worker-killed": worker_killed,
    "worker-killed-before-sending": killed_at("computed"),
    "worker-killed-before-answer": killed_at("sent"),
    "worker-suspended": worker_suspended,
    "messages-lost": messages(drop=0.05),
    "messages-doubled": messages(duplicate=0.2),
    "messages-swapped": messages(reorder=0.1),
    "messages-late": messages(delay=0.1),
    "messages-cut-short": messages(truncate=0.01, only={"push", "ack"}),
    "driver-killed": driver_killed,
    **_chaos_master.FAULTS,
    **_chaos_network.FAULTS,
}


def main():
    options = arguments()
    names = options.faults or list(FAULTS)
    if unknown := sorted(set(names) - FAULTS.keys()):
        sys.exit(f"unknown faults {unknown}; known: {', '.join(FAULTS)}")
    result = {"name": "chaos", "machine": machine(), "load_before": load(), "faults": {}}
    for name in names:
        reason = obstacle() if name in _chaos_network.FAULTS else None
        if reason is not None:
            print(f"{name}: left out: {reason}", flush=True)
            result["faults"][name] = {"runs": 0, "left_out": reason}
            continue
        runs = []
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            runs.append(FAULTS[name](seed))
            if not runs[-1].exact:
                print(f"{name}, seed {seed}: {runs[-1]}", flush=True)
        result["faults"][name] = summed(runs)
        print(f"{name}: {result['faults'][name]['exact']} of {len(runs)} exact", flush=True)
    print(table(result))
    if options.json:
        print(json.dumps(result | {"load_after": load()}))
    missed = any(row.get("exact", 0) < row["runs"] for row in result["faults"].values())
    sys.exit(1 if missed else 0)


def table(result):
    """Return the result for people."""
    head = ["fault", "runs", "exact", "expected", "applied", "lost", "twice", "left"]
    head += ["stall max s", "recovery s median", "max"]
    lines = [head]
    for name, row in result["faults"].items():
        if not row["runs"]:
            continue
        names = ("runs", "exact", "expected", "applied", "lost", "duplicated", "left_behind")
        names += ("longest_stall_s", "recovery_median_s", "recovery_max_s")
        lines.append([name, *("-" if row[n] is None else f"{row[n]:,}" for n in names)])
    return f"\n{aligned(lines)}\n{result['machine']}\nload {result['load_before']}"


def arguments():
    made = argparse.ArgumentParser(
        prog="python -m benchmarks chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="faults: " + ", ".join(FAULTS),
    )
    add = made.add_argument
    add("--seeds", type=int, default=3, help="runs of each fault (default: %(default)s)")
    add("--first-seed", type=int, default=0, help="(default: %(default)s)")
    add("--faults", nargs="+", metavar="NAME", help="(default: all)")
    add("--json", action="store_true", help="print one JSON object as the last line")
    return made.parse_args()
