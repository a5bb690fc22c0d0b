"""A driver of its own for `chaos`: trains, says each update it applied, then what it saw.

Usage: python -m benchmarks._chaos_driver SHAPE [HOST NAMESPACE]

SHAPE is the JSON of a `Shape`. With a namespace the workers run there, at the other end of
a bad network. Lines: ``update COUNT``, and last the JSON of the `Run`.
"""

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from benchmarks import _chaos
from benchmarks._machine import memory


def main():
    shape = _chaos.Shape(**json.loads(sys.argv[1]))
    options = {}
    with tempfile.TemporaryDirectory() as folder:
        if len(sys.argv) > 2:
            options["host"] = sys.argv[2]
            elsewhere = Path(folder, "python")
            elsewhere.write_text(
                f'#!/bin/sh\nexec ip netns exec {sys.argv[3]} {sys.executable} "$@"\n'
            )
            elsewhere.chmod(0o700)
            sys.executable = str(elsewhere)  # what the local engine starts
        seen = _chaos.run(0, announce, shape, **options)
    seen.facts["peak_mb"] = memory()["VmHWM"] >> 20
    print(json.dumps(asdict(seen)), flush=True)


def announce(scene):
    """Say each update as it comes, and which it was."""
    said = 0
    while said < scene.shape.expected and scene.witness.until(said + 1):
        for at, partition, step, pid in scene.witness.seen[said:]:
            print(f"update {said + 1} {at} {partition} {step} {pid}", flush=True)
            said += 1


if __name__ == "__main__":
    main()
