"""Estimators of scikit-learn, trained by asynchronous workers on handwritten digits.

Compares with one process that calls `partial_fit` itself:

    python examples/digits_sklearn.py
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.naive_bayes import MultinomialNB
from sklearn.neural_network import MLPClassifier

from zmqdist import ZmqDist
from zmqdist.merge import RowTrustRegion
from zmqdist.models.sklearn import PartialFit, initialize

BATCH, EPOCHS, WORKERS = 16, 10, 4
TRUST = {"merge": RowTrustRegion(2.0), "max_in_flight": 1, "publish_every": 1}


def linear(seed=0):
    return SGDClassifier(loss="log_loss", random_state=seed)


def network(seed=0):
    return MLPClassifier((32,), solver="sgd", momentum=0, learning_rate_init=0.1, random_state=seed)


def digits(seed=0):  # 1,437 images to train on and 360 to test on
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(images))
    x, y = images[order] / 16, labels[order]
    return (x[:-360], y[:-360]), (x[-360:], y[-360:])


def begun(model, train):
    initialize(model, train[0][:1], train[1][:1], classes=range(10))
    return model


def one_process(model, train):
    for _ in range(EPOCHS):
        for start in range(0, len(train[0]), BATCH):
            model.partial_fit(*(part[start : start + BATCH] for part in train))


def many_workers(model, train, workers, **options):
    rows = list(zip(*train, strict=True))
    data = [rows[i::workers] for i in range(workers)]
    with ZmqDist(model, **options) as dd:
        return dd.train(data, PartialFit(), epochs=EPOCHS, batch_size=BATCH, workers=workers)


if __name__ == "__main__":
    train, test = digits()
    # counts add up as they are
    for make, options in ((linear, TRUST), (network, TRUST), (MultinomialNB, {})):
        one, many = begun(make(), train), begun(make(), train)
        one_process(one, train)
        result = many_workers(many, train, WORKERS, **options)
        print(result.summary())
        print(f"\n{many}: {many.score(*test):.1%} right; one process {one.score(*test):.1%}\n")
