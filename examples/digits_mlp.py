"""A small neural network in plain numpy, trained by asynchronous workers on handwritten digits.

Compares with one process that takes the same steps one after the other. Needs scikit-learn,
for its data:

    python examples/digits_mlp.py
"""

from itertools import pairwise

import numpy as np
from sklearn.datasets import load_digits

from zmqdist import ZmqDist
from zmqdist.merge import RowTrustRegion

RATE, BATCH, EPOCHS, WORKERS = 0.05, 10, 50, 8


def new_model(hidden=32, seed=0):  # without hidden: softmax regression
    rng = np.random.default_rng(seed)
    sizes = [64, hidden, 10] if hidden else [64, 10]
    model = {}
    for i, (n, m) in enumerate(pairwise(sizes)):
        model[f"w{i}"] = rng.normal(0, np.sqrt(2 / n), (n, m)).astype(np.float32)
        model[f"b{i}"] = np.zeros(m, np.float32)
    return model


def forward(model, x):  # what enters each layer, and the scores of the ten digits
    entering, last = [x], len(model) // 2 - 1
    for i in range(last + 1):
        x = x @ model[f"w{i}"] + model[f"b{i}"]
        entering.append(x if i == last else np.maximum(x, 0))
    return entering


def gradient(model, rows):  # executes on workers; rows of 64 pixels and a digit
    rows = np.array(rows)
    *entering, scores = forward(model, rows[:, :64])
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    error = odds / odds.sum(axis=1, keepdims=True) - np.eye(10)[rows[:, 64].astype(int)]
    update = {}
    for i in reversed(range(len(entering))):
        update[f"w{i}"] = (-RATE / len(rows) * entering[i].T @ error).astype(np.float32)
        update[f"b{i}"] = (-RATE / len(rows) * error.sum(axis=0)).astype(np.float32)
        error = (error @ model[f"w{i}"].T) * (entering[i] > 0)
    return update


def accuracy(model, rows):
    return float((forward(model, rows[:, :64])[-1].argmax(axis=1) == rows[:, 64]).mean())


def digits(seed=0):  # 1,437 rows to train on and 360 to test on
    images, labels = load_digits(return_X_y=True)
    rows = np.column_stack([images / 16, labels]).astype(np.float32)
    return np.split(np.random.default_rng(seed).permutation(rows), [-360])


def one_process(model, rows):
    for batch in np.array_split(rows, len(rows) // BATCH) * EPOCHS:
        for name, change in gradient(model, batch).items():
            model[name] += change


def many_workers(model, rows, workers, **options):
    data = [rows[i::workers] for i in range(workers)]
    fresh = {"publish_every": 1, "max_in_flight": 1}  # the model is small: send it each time
    with ZmqDist(model, merge=RowTrustRegion(2.0), **fresh) as dd:
        return dd.train(data, gradient, epochs=EPOCHS, batch_size=BATCH, workers=workers, **options)


if __name__ == "__main__":
    train, test = digits()
    one, many = new_model(), new_model()
    one_process(one, train)
    result = many_workers(many, train, WORKERS, evaluate=lambda model: accuracy(model, test))
    print(result.summary())
    print(f"\n{accuracy(many, test):.1%} right; one process {accuracy(one, test):.1%}")
