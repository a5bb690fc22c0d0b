"""A PyTorch module, trained by asynchronous workers on handwritten digits.

Compares with one process and torch's own optimizer. Needs torch, and scikit-learn for its data:

    python examples/digits_torch.py
"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from zmqdist import ZmqDist
from zmqdist.models.torch import LossGradient
from zmqdist.optim import Adam

RATE, BATCH, EPOCHS, WORKERS = 0.002, 32, 20, 4
torch.set_num_threads(1)  # in so small a module two would wait for each other


def new_module(hidden=32, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def loss(module, rows):  # executes on workers; rows of 64 pixels and a digit
    rows = torch.from_numpy(np.array(rows))
    return cross_entropy(module(rows[:, :64]), rows[:, 64].long())


def accuracy(module, rows):
    module.eval()
    with torch.no_grad():
        found = module(torch.from_numpy(rows[:, :64])).argmax(dim=1).numpy()
    return float((found == rows[:, 64]).mean())


def digits(seed=0):  # 1,437 rows to train on and 360 to test on
    images, labels = load_digits(return_X_y=True)
    rows = np.column_stack([images / 16, labels]).astype(np.float32)
    return np.split(np.random.default_rng(seed).permutation(rows), [-360])


def one_process(module, rows):
    optimizer = torch.optim.Adam(module.parameters(), RATE)
    for batch in np.array_split(rows, len(rows) // BATCH) * EPOCHS:
        optimizer.zero_grad()
        loss(module, batch).backward()
        optimizer.step()


def many_workers(module, rows, workers, **options):
    data = [rows[i::workers] for i in range(workers)]
    fresh = {"publish_every": 1, "max_in_flight": 1}  # the module is small: send it each time
    with ZmqDist(module, **fresh) as dd:
        return dd.train(
            data,
            LossGradient(loss),
            Adam(RATE),
            epochs=EPOCHS,
            batch_size=BATCH,
            workers=workers,
            **options,
        )


if __name__ == "__main__":
    train, test = digits()
    one, many = new_module(), new_module()
    one_process(one, train)
    result = many_workers(many, train, WORKERS, evaluate=lambda module: accuracy(module, test))
    print(result.summary())
    print(f"\n{accuracy(many, test):.1%} right; one process {accuracy(one, test):.1%}")
