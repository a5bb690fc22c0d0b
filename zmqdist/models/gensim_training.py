"""Ready gradients for gensim's Word2Vec, Doc2Vec and FastText, and their vocabulary.

A program is::

    model = Word2Vec(vector_size=100, min_count=5, epochs=5)
    build_vocab(model, sentences)
    with ZmqDist(model, **WORD_VECTORS) as dd:
        dd.train(sentences, Embedding(), epochs=model.epochs)
    model.wv.most_similar("king")
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from zmqdist.errors import ConfigError, ModelError
from zmqdist.models.tiers import REFRESH, Refresh, Tiers
from zmqdist.models.update import Update
from zmqdist.models.vocabulary import build_vocab, words_of
from zmqdist.staleness import Asynchronous

WORD_VECTORS: dict[str, Any] = {"staleness": Asynchronous()}
"""Options of `ZmqDist` for embeddings: nothing is rejected, and changes are added up. With
rows exchanged by `TIERS` there is nothing left that a merge rule would have to mend."""

TIERS = Tiers(hot_rows=64, keep_bits=4, read_bits=9)

JOBS = 3
"""Parts of a chunk at most. Between two of them answers are taken in, so that nobody waits
for them; a worker trains this share of a chunk without what the others did in the last."""

JOB_WORDS = 2_000
"""Words of such a part at least: fewer are trained before an answer could come."""


@dataclass(frozen=True)
class Embedding:
    """The gradient: trains the worker's model in place, a chunk of words at a time.

    Parameters
    ----------
    chunk_words : int, optional
        Words between two exchanges; default ``chunk_words(model, 8)``. What the other
        workers train meanwhile, each so many words, is what costs accuracy.
    max_growth : float, default=4.0
        Chunks grow as the learning rate falls, to so many times `chunk_words` at most: the
        product of the two counts. From partition to partition, by `zmqdist.task.Data.passes`.
    tiers : Tiers
        Which rows are exchanged how often.

    Notes
    -----
    The learning rate falls linearly from ``model.alpha`` to ``model.min_alpha`` over
    ``model.epochs`` passes, as in gensim, by the count of words that all workers have
    done; the master holds it as ``model.words_done``.

    What a worker and the others learn on the same row without knowing of each other is, to
    first order, what the rate and the words of a chunk multiply to. Zhang et al. [1]_ keep
    the same product by the other factor: they divide the rate by the staleness.

    References
    ----------
    .. [1] W. Zhang, S. Gupta, X. Lian, J. Liu, "Staleness-aware Async-SGD for distributed
       deep learning", IJCAI 2016, arXiv:1511.05950.
    """

    chunk_words: int | None = None
    max_growth: float = 4.0
    tiers: Tiers = TIERS

    def __post_init__(self) -> None:
        size = self.chunk_words
        if size is not None and (not isinstance(size, int) or size < 1):
            raise ConfigError(f"chunk_words is {self.chunk_words!r}; expected an integer >= 1")
        if not isinstance(self.max_growth, (int, float)) or not self.max_growth >= 1:
            raise ConfigError(f"max_growth is {self.max_growth!r}; expected a number >= 1")

    def __call__(self, model: Any, sentences: Iterable[Any]) -> Iterator[Update | Refresh]:
        """Train through a partition; yields after each chunk with its count of words."""
        if not hasattr(model, "words_done"):
            raise ModelError(
                "the model counts no words, which set the learning rate; give it its vocabulary by "
                "build_vocab of this module, or set model.words_done = 0 before ZmqDist(model)"
            )
        total = model.epochs * model.corpus_total_words
        memory = model._get_thread_working_mem()
        size = self._size(model, getattr(sentences, "passes", 0.0))
        for chunk, words in _chunks(sentences, size):
            done = min(1.0, model.words_done / total)
            alpha = max(model.min_alpha, model.alpha - (model.alpha - model.min_alpha) * done)
            # train() would start two threads for each chunk; this is what they run
            for job, more in _jobs(chunk, words):
                model._do_train_job(job, alpha, memory)
                if more:
                    yield REFRESH
            yield Update({"words_done": words}, examples=words)

    def _size(self, model: Any, passes: float) -> float:
        """Return the words of a chunk after so many passes: what the learning rate allows."""
        share = min(1.0, passes / model.epochs)
        rate = float(1 - share * (1 - model.min_alpha / model.alpha))  # of the one at first
        growth = 1 / min(1.0, max(rate, 1 / self.max_growth))
        return growth * (self.chunk_words or chunk_words(model, 8))


def chunk_words(model: Any, workers: int) -> int:
    """Return how many words a worker may train between two exchanges.

    Parameters
    ----------
    model : Word2Vec, Doc2Vec or FastText
    workers : int
        How many compute at the same time.

    Notes
    -----
    Measured (docs/word2vec.md): so many words trained by the others meanwhile cost nothing
    yet. The most frequent rows are what limits them. Skip-gram visits these once for each
    word of the window where CBOW does once, and in hierarchical softmax all words share the
    nodes near the root of the tree.
    """
    skip_gram = bool(model.sg)
    others = (875 if skip_gram else 3_500) if model.hs else (3_500 if skip_gram else 7_000)
    return max(50, others // max(1, workers - 1))


def _chunks(sentences: Iterable[Any], size: float) -> Iterator[tuple[list[Any], int]]:
    chunk: list[Any] = []
    words = 0
    for sentence in sentences:
        chunk.append(sentence)
        words += _length(sentence)
        if words >= size:
            yield chunk, words
            chunk, words = [], 0
    if chunk:
        yield chunk, words


def _jobs(chunk: list[Any], words: int) -> Iterator[tuple[list[Any], bool]]:
    """Cut a chunk into up to `JOBS` about equal parts; also say whether more follow."""
    size = words / max(1, min(JOBS, words // JOB_WORDS))
    begin, done, until = 0, 0, size
    for end, sentence in enumerate(chunk[:-1], 1):
        done += _length(sentence)
        if done >= until:
            yield chunk[begin:end], True
            begin, until = end, until + size
    yield chunk[begin:], False


def _length(sentence: Any) -> int:
    return len(words_of(sentence))


__all__ = ["TIERS", "WORD_VECTORS", "Embedding", "build_vocab", "chunk_words"]
