"""Estimators of scikit-learn on its digits, as `partial_fit` trains them.

Accuracy of 1, 4 and 8 asynchronous workers on the 360 images kept for testing, against one
process that calls `partial_fit` on the same batches in order: `examples/digits_sklearn.py`.
Each repeat has another seed, which splits the images anew.
"""

import importlib.util
from pathlib import Path

from benchmarks._harness import Case
from zmqdist.merge import Mean, RowTrustRegion
from zmqdist.staleness import SoftSync

EXAMPLE = Path(__file__).parents[1] / "examples" / "digits_sklearn.py"
WAYS = {
    "fresh, trust region": {
        "merge": RowTrustRegion(2.0),
        "max_in_flight": 1,
        "publish_every": 1,
    },
    "default": {},
    "SoftSync(1), Mean()": {"staleness": SoftSync(1), "merge": Mean()},
}


def cases(options):
    spec = importlib.util.spec_from_file_location(EXAMPLE.stem, EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    for make in (example.linear, example.network):
        for workers in (1, 4, 8):
            for way, settings in WAYS.items():
                run = Run(example, make, workers, settings)
                name = f"{make.__name__}, {workers} workers, {way}"
                yield Case(name, run.ours, run.limit, "% right", repeats=3)


class Run:
    """Measures ours first, then the limit from the same seed."""

    def __init__(self, example, make, workers, settings):
        self.example, self.make, self.workers, self.settings = example, make, workers, settings
        self.seed = 0

    def ours(self):
        train, test = self.example.digits(self.seed)
        model = self.example.begun(self.make(self.seed), train)
        self.example.many_workers(model, train, self.workers, **self.settings)
        return 100 * model.score(*test)

    def limit(self):
        train, test = self.example.digits(self.seed)
        model = self.example.begun(self.make(self.seed), train)
        self.example.one_process(model, train)
        self.seed += 1
        return 100 * model.score(*test)
