"""Doc2Vec from asynchronous workers: halves of paragraphs that find each other.

Each paragraph of at least 40 words is cut into its even and its odd words, two documents
with a tag each. What both are about is the same, so the nearest half to a half, by the
cosine of their vectors, should be the other one. The figure is the mean reciprocal rank
among all halves of the other kind: 1 if each is found at once. It needs no labels, and a
vector that learned nothing of its document scores zero.

PV-DBOW with word vectors (Le and Mikolov 2014, section 3.2; gensim's dm=0, dbow_words=1),
against gensim in one process on the same documents.
"""

import numpy as np
from gensim.models import Doc2Vec
from gensim.models.doc2vec import TaggedDocument

from benchmarks._gensim import arguments, paragraphs, trained_by_gensim, trained_by_zmqdist
from benchmarks._harness import Case

__all__ = ["arguments", "cases"]

LEAST_WORDS = 40


def cases(options):
    run = Run(options)
    name = f"{options.workers} workers, {len(run.documents) // 2:,} paragraphs"
    yield Case(name, run.ours, run.limit, "mean reciprocal rank", "ratio >= 0.9", options.seeds)


class Run:
    """Measures ours first, then gensim from the same seed."""

    def __init__(self, options):
        self.options, self.seed = options, 1
        long = (words for words in paragraphs(options) if len(words) >= LEAST_WORDS)
        self.documents = [
            TaggedDocument(words[half::2], [2 * n + half])
            for n, words in enumerate(long)
            for half in (0, 1)
        ]

    def ours(self):
        return found(trained_by_zmqdist(self.model(), self.documents, self.options))

    def limit(self):
        model = trained_by_gensim(self.model(), self.documents)
        self.seed += 1
        return found(model)

    def model(self):
        return Doc2Vec(
            vector_size=100,
            dm=0,
            dbow_words=1,
            min_count=5,
            epochs=self.options.epochs,
            workers=1,
            seed=self.seed,
        )


def found(model):
    """Return the mean reciprocal rank of the second halves, asked for by the first."""
    vectors = model.dv.vectors / np.linalg.norm(model.dv.vectors, axis=1, keepdims=True)
    first, second = vectors[0::2], vectors[1::2]
    ranks = []
    for start in range(0, len(first), 1000):
        likeness = first[start : start + 1000] @ second.T
        own = likeness[np.arange(len(likeness)), start + np.arange(len(likeness))]
        ranks.append(1 + (likeness > own[:, None]).sum(axis=1))
    return float((1 / np.concatenate(ranks)).mean())
