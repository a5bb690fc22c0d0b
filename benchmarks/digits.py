"""Softmax regression and a small neural network on scikit-learn's digits.

Accuracy of 1, 8 and 32 asynchronous workers on the 360 rows kept for testing, against one
process that takes the same steps in order: `examples/digits_mlp.py`. Each repeat has another
seed, which shuffles and splits the rows anew. A ratio of 0.99 is a point.
"""

import importlib.util
from pathlib import Path

from benchmarks._harness import Case

EXAMPLE = Path(__file__).parents[1] / "examples" / "digits_mlp.py"
MODELS = {"softmax regression": 0, "64-32-10 network": 32}
WORKERS = (1, 8, 32)


def cases(options):
    example = load()
    for name, hidden in MODELS.items():
        for workers in WORKERS:
            run = Run(example, hidden, workers)
            title = f"{name}, {workers} workers"
            yield Case(title, run.ours, run.limit, "% right", "ratio >= 0.99", repeats=3)


class Run:
    """Measures ours first, then the limit from the same seed."""

    def __init__(self, example, hidden, workers):
        self.example, self.hidden, self.workers = example, hidden, workers
        self.seed = 0

    def ours(self):
        train, test = self.example.digits(self.seed)
        model = self.example.new_model(self.hidden, self.seed)
        result = self.example.many_workers(model, train, self.workers)
        print(
            f"  seed {self.seed}: staleness mean {result.staleness_mean:.1f}, max "
            f"{max(result.staleness)}; {result.requeued} computed again; {result.seconds:.0f} s",
            flush=True,
        )
        return 100 * self.example.accuracy(model, test)

    def limit(self):
        train, test = self.example.digits(self.seed)
        model = self.example.new_model(self.hidden, self.seed)
        self.example.one_process(model, train)
        self.seed += 1
        return 100 * self.example.accuracy(model, test)


def load():
    """Import the example, which is in no package."""
    spec = importlib.util.spec_from_file_location(EXAMPLE.stem, EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    return example
