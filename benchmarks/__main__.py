"""Run one benchmark by name."""

import importlib
import pkgutil
import sys

import benchmarks
from benchmarks import _harness


def main():
    names = sorted(
        module.name
        for module in pkgutil.iter_modules(benchmarks.__path__)
        if not module.name.startswith("_")
    )
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        sys.exit(f"usage: python -m benchmarks {{{','.join(names)}}} [--help] [options]")
    name = sys.argv.pop(1)
    sys.argv[0] = f"python -m benchmarks {name}"
    module = importlib.import_module(f"benchmarks.{name}")
    if hasattr(module, "cases"):
        _harness.main(name, module)
    else:
        module.main()


if __name__ == "__main__":
    main()
