"""Codecs that round what workers send: bytes and accuracy, against the loss-free one.

`mlp` is a network of one hidden layer in numpy on the digits of scikit-learn, `word2vec`
is CBOW on the Wikipedia extract of gensim's wheel, both with updates in the ordinary way,
from two local worker processes. Without feedback is what happens if the part that is cut
off is forgotten.
"""

import functools
import itertools

import numpy as np

from benchmarks._harness import Case
from zmqdist import Update, ZmqDist, delta
from zmqdist.models.feedback import Feedback
from zmqdist.optim import SGD
from zmqdist.staleness import BoundedStaleness

CODECS = ("float16", "bitround:7", "bitround:4", "bitround:2", "bitround:1")
WITHOUT = " without feedback"


def arguments(add):
    add("--mlp-epochs", type=int, default=15)
    add("--word2vec-epochs", type=int, default=20)


def cases(options):
    jobs = {
        "mlp": (functools.partial(mlp, options.mlp_epochs), "ratio >= 0.98", CODECS),
        "word2vec": (
            functools.partial(word2vec, options.word2vec_epochs),
            "ratio >= 0.95",
            CODECS[:3],
        ),
    }
    for name, (job, target, codecs) in jobs.items():
        runs = functools.cache(job)
        for codec in (*codecs, codecs[-1] + WITHOUT):
            for figure, unit in (("bytes", "bytes/update"), ("accuracy", "")):
                yield Case(
                    f"{name}, {codec}, {figure}",
                    lambda runs=runs, codec=codec, figure=figure: runs(codec)[figure],
                    lambda runs=runs, figure=figure: runs("auto")[figure],
                    unit,
                    target if figure == "accuracy" and WITHOUT not in codec else "",
                    repeats=1,
                )


def train(model, data, gradient, codec, epochs, descent=None, **options):
    forgetful = codec.endswith(WITHOUT)
    gradient = Forgetful(gradient) if forgetful else gradient
    policy = BoundedStaleness(8, on_stale="requeue")
    codec = codec.removesuffix(WITHOUT)
    with ZmqDist(model, codec=codec, staleness=policy, progress=False) as dd:
        result = dd.train(data, gradient, descent, epochs=epochs, workers=2, **options)
    return result.bytes_received / result.applied


class Forgetful:
    """A gradient in whose process what is cut off is forgotten."""

    def __init__(self, gradient):
        self.gradient = gradient

    def __setstate__(self, state):
        vars(self).update(state)
        Feedback.settle = forget

    def __call__(self, model, items):
        return self.gradient(model, items)


def forget(feedback, step, *, applied):
    feedback._under_way.clear()
    for rest in feedback._rest.values():
        rest[...] = 0


# ---- a network ------------------------------------------------------------------------------


def mlp(epochs, codec):
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    rows = list(zip(x[:1400], y[:1400], strict=True))
    rng = np.random.default_rng(1)
    sizes = (64, 256, 10)
    model = {}
    for layer, (n, m) in enumerate(itertools.pairwise(sizes)):
        model[f"w{layer}"] = (rng.normal(size=(n, m)) * np.sqrt(2 / n)).astype(np.float32)
        model[f"b{layer}"] = np.zeros(m, np.float32)
    data = [rows[part::4] for part in range(4)]
    size = train(model, data, slope, codec, epochs, SGD(0.05), batch_size=20)
    guess = logits(model, x[1400:])[1].argmax(1)
    return {"bytes": size, "accuracy": float((guess == y[1400:]).mean())}


def logits(model, x):
    hidden = np.maximum(x @ model["w0"] + model["b0"], 0)
    return hidden, hidden @ model["w1"] + model["b1"]


def slope(model, rows):
    x, y = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    hidden, out = logits(model, x)
    out = np.exp(out - out.max(1, keepdims=True))
    out /= out.sum(1, keepdims=True)
    out[np.arange(len(y)), y] -= 1
    out /= len(y)
    back = (out @ model["w1"].T) * (hidden > 0)
    return {"w0": x.T @ back, "b0": back.sum(0), "w1": hidden.T @ out, "b1": out.sum(0)}


# ---- word vectors ---------------------------------------------------------------------------


@functools.cache
def lines():
    from gensim.corpora import WikiCorpus
    from gensim.test.utils import datapath

    name = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
    articles = list(WikiCorpus(datapath(name), dictionary={}, processes=1).get_texts())
    return [list(a[i : i + 1000]) for a in map(list, articles) for i in range(0, len(a), 1000)]


def word2vec(epochs, codec):
    from gensim.models import Word2Vec
    from gensim.test.utils import datapath

    model = Word2Vec(vector_size=100, window=5, min_count=5, workers=1, seed=1, epochs=epochs)
    model.build_vocab(lines())
    model.words_done, model.words_total = 0, epochs * sum(map(len, lines()))
    data = [lines()[part::4] for part in range(4)]
    size = train(model, data, chunk, codec, epochs, batch_size=10)
    _, spearman, _ = model.wv.evaluate_word_pairs(datapath("wordsim353.tsv"))
    return {"bytes": size, "accuracy": float(spearman.statistic)}


def chunk(model, sentences):
    done = min(1.0, model.words_done / model.words_total)
    alpha = max(model.min_alpha, model.alpha * (1 - done))
    with delta(model) as update:
        model.train(
            sentences,
            total_examples=len(sentences),
            epochs=1,
            start_alpha=alpha,
            end_alpha=alpha,
        )
    words = sum(map(len, sentences))
    update["words_done"] = words
    return Update(update, examples=words)
