"""Write torch_optim.json: what torch.optim does on a small problem, for test_optim.py.

Run it anywhere that torch and numpy are installed (the CPU is enough):

    python tests/data/make_torch_optim.py

The file in the repository was made with torch 2.15.0 and numpy 2.4.6. Each case holds the
options, the start and the state of the parameters after steps 1, 2, 5 and 20. The gradients
are those of 0.5 * ||p - target||^2, plus a wave, so that they can be computed anywhere;
sparse cases take the rows that `rows_of` names.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

SHAPES = {"w": (6, 3), "t": (2, 3, 2), "b": (4,), "s": ()}
STEPS, KEPT = 20, (1, 2, 5, 20)


def start(name):
    size = int(np.prod(SHAPES[name]))
    return np.sin(1.7 * np.arange(size) + len(SHAPES[name])).reshape(SHAPES[name])


def gradient(name, values, step):
    size = int(np.prod(SHAPES[name]))
    wave = np.cos(0.9 * np.arange(size) + 0.31 * step).reshape(SHAPES[name])
    return (values - 0.25) + wave


def rows_of(step):
    return [row for row in range(6) if (row * 7 + step * step) % 4 < 2 and row != 5]


CASES = {
    "SGD": (torch.optim.SGD, {"lr": 0.05}),
    "SGD weight_decay": (torch.optim.SGD, {"lr": 0.05, "weight_decay": 0.1}),
    "Momentum": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    "Momentum nesterov": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.8, "nesterov": True}),
    "Momentum weight_decay": (
        torch.optim.SGD,
        {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1},
    ),
    "AdaGrad": (torch.optim.Adagrad, {"lr": 0.1}),
    "AdaGrad accumulator": (
        torch.optim.Adagrad,
        {"lr": 0.1, "initial_accumulator_value": 0.5, "eps": 1e-6},
    ),
    "Adam": (torch.optim.Adam, {"lr": 0.02}),
    "Adam options": (torch.optim.Adam, {"lr": 0.02, "betas": (0.7, 0.95), "eps": 0.01}),
}
SPARSE = {
    "SGD": (torch.optim.SGD, {"lr": 0.05}),
    "AdaGrad": (torch.optim.Adagrad, {"lr": 0.1}),
    "AdaGrad accumulator": (
        torch.optim.Adagrad,
        {"lr": 0.1, "initial_accumulator_value": 0.5, "eps": 1e-6},
    ),
    "Adam": (torch.optim.SparseAdam, {"lr": 0.02}),
    "Adam options": (torch.optim.SparseAdam, {"lr": 0.02, "betas": (0.7, 0.95), "eps": 0.01}),
}


def run(make, options, names, dtype, sparse):
    parameters = {name: torch.tensor(start(name), dtype=dtype) for name in names}
    optimizer = make(list(parameters.values()), **options)
    kept = {}
    for step in range(STEPS):
        for name, parameter in parameters.items():
            values = torch.tensor(gradient(name, parameter.numpy(), step), dtype=dtype)
            if sparse:
                rows = torch.tensor([rows_of(step)])
                values = torch.sparse_coo_tensor(rows, values[rows[0]], values.shape)
            parameter.grad = values
        optimizer.step()
        if step + 1 in KEPT:
            kept[step + 1] = {name: p.tolist() for name, p in parameters.items()}
    return kept


def main():
    cases = []
    for table, names, sparse in ((CASES, list(SHAPES), False), (SPARSE, ["w"], True)):
        for case, (make, options) in table.items():
            for dtype in (torch.float32, torch.float64):
                cases.append(
                    {
                        "case": case,
                        "torch": make.__name__,
                        "options": options,
                        "dtype": str(dtype).removeprefix("torch."),
                        "sparse": sparse,
                        "start": {name: start(name).tolist() for name in names},
                        "after": run(make, options, names, dtype, sparse),
                    }
                )
    rows = [rows_of(step) for step in range(STEPS)]
    made = {"torch": torch.__version__, "numpy": np.__version__, "rows": rows, "cases": cases}
    Path(__file__).with_name("torch_optim.json").write_text(json.dumps(made) + "\n")


if __name__ == "__main__":
    main()
