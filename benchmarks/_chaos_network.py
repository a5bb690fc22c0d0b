"""Faults of the network: the driver with its master at one end of a cable, workers at the other."""

import json
import random
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks._chaos import Shape, judged
from zmqdist.testing.network import Cable, Quality

ROOT = Path(__file__).parents[1]


def cut(seconds, shape, **direction):
    """Return a fault: the cable is cut for so long at a random moment."""

    def fault(seed):
        def act(cable):
            cable.cut(**direction)
            yield seconds
            cable.mend()

        return over_a_cable(seed, shape, act)

    return fault


def poor(quality, shape):
    """Return a fault: the cable is poor from the start."""
    return lambda seed: over_a_cable(seed, shape, None, quality)


def over_a_cable(seed, shape, act, quality=None):
    """Train over a cable; `act(cable)` begins at a random update and yields what it waits for."""
    chance = random.Random(seed)
    started = time.monotonic()
    with Cable(seed) as cable:
        if quality is not None:
            cable.set(quality)
        order = [sys.executable, "-m", "benchmarks._chaos_driver", json.dumps(asdict(shape))]
        order = cable.left.command([*order, cable.left.address, cable.right.namespace])
        with subprocess.Popen(order, stdout=subprocess.PIPE, text=True, cwd=ROOT) as driver:
            seen, struck, last = [], None, ""
            when = chance.randrange(1, shape.expected // 2)
            for line in driver.stdout:
                if not line.startswith("update "):
                    last = line
                    continue
                _, count, at, *who = line.split()
                seen.append((float(at), *map(int, who)))
                if act is not None and int(count) == when:
                    for seconds in act(cable):
                        time.sleep(seconds)
                    struck = time.monotonic(), None, None
        told = json.loads(last) if last else {"error": f"the driver ended with {driver.returncode}"}
        run = judged(seen, shape, struck)
        run.error = told["error"]
        run.left_behind = told.get("left_behind", 0)
        run.facts = told.get("facts", {}) | {"carried": cable.carried, "dropped": cable.dropped}
    run.seconds = round(time.monotonic() - started, 2)
    return run


PATIENT = Shape(partitions=4, steps=50, workers=2, lease_s=20, numbers=1000)
HASTY = Shape(partitions=4, steps=50, workers=2, lease_s=4, numbers=1000)

FAULTS = {
    "link-cut-5s": cut(5, PATIENT),
    "link-cut-beyond-lease": cut(10, HASTY),
    "link-one-way-to-master": cut(5, PATIENT, from_left=False),
    "link-one-way-to-workers": cut(5, PATIENT, from_right=False),
    "link-loss-1%": poor(Quality(loss=0.01), PATIENT),
    "link-delay-200ms": poor(Quality(delay_s=0.2), PATIENT),
    "link-1Mbit": poor(Quality(bytes_per_s=125_000), PATIENT),
}
