"""The adapter for gensim 4: what Word2Vec, Doc2Vec and FastText learn, and all to train them.

Owns the knowledge which attributes of a gensim model are weights, which are
counts, which are settings, and what gensim computes from the weights.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from gensim.models import Doc2Vec, FastText, Word2Vec
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from zmqdist.errors import ModelError
from zmqdist.models.arrays import Path, PathParameters
from zmqdist.models.base import as_scalar
from zmqdist.models.gensim_training import (
    TIERS,
    WORD_VECTORS,
    Embedding,
    build_vocab,
    chunk_words,
)

# Settings are what a constructor takes, and these. They go from the master to the workers only:
# gradients that set `model.alpha` before they train would move it further with each update.
_SETTINGS = frozenset(
    name for cls in (Word2Vec, Doc2Vec, FastText) for name in inspect.signature(cls).parameters
) | {
    "corpus_count",
    "corpus_total_words",
    "effective_min_count",
    "layer1_size",
    "min_alpha_yet_reached",
    "running_training_loss",
}


class GensimParameters(PathParameters):
    """The weights of a Word2Vec, Doc2Vec or FastText model.

    Arrays: ``wv.vectors`` (FastText: ``wv.vectors_vocab`` and
    ``wv.vectors_ngrams``, from which its ``wv.vectors`` is computed),
    ``dv.vectors`` of Doc2Vec, ``syn1`` and ``syn1neg`` where they exist; float32,
    (rows, vector_size). Scalars: the numbers among the model's attributes, those
    that a program hung there (``model.word_count = 0``, before training starts)
    as well as gensim's own.

    Other arrays hung on the model (the AdaGrad state ``model.ssyn0``) are no
    weights: they stay on the master, where ``descent`` keeps them.

    Raises
    ------
    ModelError
        The model has no vocabulary yet.
    """

    def __init__(self, model: Word2Vec) -> None:
        if len(model.wv.index_to_key) == 0:
            raise ModelError(
                f"this {type(model).__name__} has no vocabulary, so there is nothing to learn; "
                "call model.build_vocab(...) before training"
            )
        fasttext = isinstance(model, FastText)
        names = ["wv.vectors_vocab", "wv.vectors_ngrams"] if fasttext else ["wv.vectors"]
        names += ["dv.vectors"] if isinstance(model, Doc2Vec) else []
        names += [name for name in ("syn1", "syn1neg") if hasattr(model, name)]
        arrays = {name: Path.of(name) for name in names}
        numbers = [
            name
            for name, value in vars(model).items()
            if not isinstance(value, np.ndarray) and as_scalar(value) is not None
        ]
        super().__init__(
            model,
            {name: path for name, path in arrays.items() if path.get(model).size},
            {name: Path.of(name) for name in numbers},
        )
        self._ngrams: csr_matrix | None = None

    def derived(self) -> tuple[NDArray[Any], ...]:
        return (self.model.wv.vectors,) if isinstance(self.model, FastText) else ()

    def ranked(self) -> dict[str, NDArray[np.intp]]:
        """Rank rows by how often training visits them.

        gensim sorts its vocabulary by frequency, and numbers the inner nodes of the
        Huffman tree (``syn1``) from the rarest to the root; n-grams are as frequent as
        the words that have them. A document's vector is visited once per epoch.
        """
        orders = {name: np.arange(len(array)) for name, array in self.arrays().items()}
        if "syn1" in orders:
            orders["syn1"] = orders["syn1"][::-1]
        if "wv.vectors_ngrams" in orders:
            wv = self.model.wv
            lengths = [len(buckets) for buckets in wv.buckets_word]
            visits = np.repeat(wv.expandos["count"].astype(float), lengths)
            n_ngrams = len(wv.vectors_ngrams)
            sums = np.bincount(np.concatenate(wv.buckets_word), visits, n_ngrams)
            orders["wv.vectors_ngrams"] = np.argsort(-sums, kind="stable")
        return orders

    def factors(self) -> tuple[frozenset[str], frozenset[str]]:
        outputs = frozenset({"syn1", "syn1neg"})
        # an n-gram is one of many that are averaged, so it may be long
        return frozenset(self._arrays) - outputs - {"wv.vectors_ngrams"}, outputs

    def adds_up(self, name: str) -> bool:
        return name not in _SETTINGS

    def loaded(self) -> None:
        """Drop the cached norms; compose FastText's word vectors anew."""
        self.model.wv.norms = None
        if isinstance(self.model, Doc2Vec):
            self.model.dv.norms = None
        if isinstance(self.model, FastText) and self.model.wv.bucket:
            self._compose_words()

    def _compose_words(self) -> None:
        """Do what ``wv.adjust_vectors()`` does, several times faster: it runs at each version."""
        wv = self.model.wv
        lengths = np.array([len(buckets) for buckets in wv.buckets_word])
        if self._ngrams is None:  # row: a word; its ones: the n-grams of the word
            starts = np.concatenate([[0], np.cumsum(lengths)])
            columns = np.concatenate(wv.buckets_word)
            ones = np.ones(len(columns), wv.vectors_ngrams.dtype)
            shape = len(lengths), len(wv.vectors_ngrams)
            self._ngrams = csr_matrix((ones, columns, starts), shape=shape)
        total = wv.vectors_vocab + self._ngrams @ wv.vectors_ngrams
        np.divide(total, (lengths + 1)[:, None], out=wv.vectors, casting="same_kind")


def adapt(model: Any) -> GensimParameters | None:
    """Return the weights of a Word2Vec, Doc2Vec or FastText; None for other gensim models."""
    return GensimParameters(model) if isinstance(model, Word2Vec) else None


__all__ = [
    "TIERS",
    "WORD_VECTORS",
    "Embedding",
    "GensimParameters",
    "adapt",
    "build_vocab",
    "chunk_words",
]
