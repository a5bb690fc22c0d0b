"""Ready gradients for gensim's Word2Vec, Doc2Vec and FastText, and their vocabulary.

A program is::

    model = Word2Vec(vector_size=100, min_count=5, epochs=5)
    build_vocab(model, sentences)
    with ZmqDist(model, **WORD_VECTORS) as dd:
        dd.train(sentences, Embedding(), epochs=model.epochs)
    model.wv.most_similar("king")
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gensim.models import Doc2Vec

from zmqdist.errors import ConfigError, ModelError
from zmqdist.models.tiers import Tiers
from zmqdist.models.update import Update
from zmqdist.staleness import Asynchronous

WORD_VECTORS: dict[str, Any] = {"staleness": Asynchronous()}
"""Options of `ZmqDist` for embeddings: nothing is rejected, and changes are added up. With
rows exchanged by `TIERS` there is nothing left that a merge rule would have to mend."""

TIERS = Tiers(hot_rows=64, keep_bits=4, read_bits=9)


@dataclass(frozen=True)
class Embedding:
    """The gradient: trains the worker's model in place, a chunk of words at a time.

    Parameters
    ----------
    chunk_words : int, optional
        Words between two exchanges; default ``chunk_words(model, 8)``. Words in flight,
        workers times this, are what costs accuracy.
    tiers : Tiers
        Which rows are exchanged how often.

    Notes
    -----
    The learning rate falls linearly from ``model.alpha`` to ``model.min_alpha`` over
    ``model.epochs`` passes, as in gensim, by the count of words that all workers have
    done; the master holds it as ``model.words_done``.
    """

    chunk_words: int | None = None
    tiers: Tiers = TIERS

    def __post_init__(self) -> None:
        size = self.chunk_words
        if size is not None and (not isinstance(size, int) or size < 1):
            raise ConfigError(f"chunk_words is {self.chunk_words!r}; expected an integer >= 1")

    def __call__(self, model: Any, sentences: Iterable[Any]) -> Iterator[Update]:
        """Train through a partition; yields after each chunk with its count of words."""
        total = model.epochs * model.corpus_total_words
        memory = model._get_thread_working_mem()
        for chunk, words in _chunks(sentences, self.chunk_words or chunk_words(model, 8)):
            done = min(1.0, model.words_done / total)
            alpha = max(model.min_alpha, model.alpha - (model.alpha - model.min_alpha) * done)
            # train() would start two threads for each chunk; this is what they run
            model._do_train_job(chunk, alpha, memory)
            yield Update({"words_done": words}, examples=words)


def chunk_words(model: Any, workers: int) -> int:
    """Return how many words a worker may train between two exchanges.

    Parameters
    ----------
    model : Word2Vec, Doc2Vec or FastText
    workers : int
        How many compute at the same time.

    Notes
    -----
    Measured (docs/word2vec.md): so many words in flight cost nothing yet. The most
    frequent rows are what limits them. Skip-gram visits these once for each word of the
    window where CBOW does once, and in hierarchical softmax all words share the nodes
    near the root of the tree.
    """
    skip_gram = bool(model.sg)
    in_flight = (1_000 if skip_gram else 4_000) if model.hs else (4_000 if skip_gram else 8_000)
    return max(50, in_flight // workers)


def build_vocab(model: Any, sentences: Any) -> None:
    """Count the words where the text is and give the model its vocabulary.

    Parameters
    ----------
    model : Word2Vec, Doc2Vec or FastText
        Without a vocabulary yet.
    sentences : RDD or list of iterables
        Partitions of sentences (lists of words) or, for Doc2Vec, of `TaggedDocument`. No
        text is collected: of each partition only its counts travel, and for Doc2Vec
        the documents' tags.

    Raises
    ------
    ModelError
        The model has a vocabulary, or no word occurs `min_count` times.
    """
    if len(model.wv.index_to_key):
        raise ModelError(
            "the model has a vocabulary already; to go on with a trained model, set "
            "model.words_done = 0 and call train() without build_vocab"
        )
    parts = (
        sentences.mapPartitions(lambda part: [_count(part)]).collect()
        if hasattr(sentences, "mapPartitions")
        else [_count(part) for part in sentences]
    )
    counts: Counter[str] = Counter()
    tags: _Tags = {}
    for part_counts, part_tags, _ in parts:
        counts.update(part_counts)
        for tag, (documents, words) in part_tags.items():
            _count_tag(tags, tag, documents, words)
    n_sentences = sum(part[2] for part in parts)
    if not any(count >= model.min_count for count in counts.values()):
        raise ModelError(
            f"no word occurs min_count={model.min_count} times among {len(counts):,} different "
            f"words in {n_sentences:,} sentences; lower min_count, or check that the data holds "
            "lists of words"
        )
    # Spark's order differs from run to run, and equal counts keep the order they come in
    ordered = dict(sorted(counts.items()))
    if isinstance(model, Doc2Vec):
        _give_tags(model, tags)
    model.build_vocab_from_freq(ordered, corpus_count=n_sentences)
    model.corpus_total_words = sum(counts.values())
    model.words_done = 0


_Tags = dict[Any, tuple[int, int]]  # tag -> its documents, their words


def _give_tags(model: Doc2Vec, tags: _Tags) -> None:
    """Make one vector for each tag, as Doc2Vec's own scan does for tags in order."""
    for tag in sorted(tags, key=lambda tag: (isinstance(tag, str), tag)):
        model.dv.key_to_index[tag] = len(model.dv.index_to_key)
        model.dv.index_to_key.append(tag)
    for tag, (documents, words) in tags.items():
        model.dv.set_vecattr(tag, "doc_count", documents)
        model.dv.set_vecattr(tag, "word_count", words)


def _count_tag(tags: _Tags, tag: Any, documents: int, words: int) -> None:
    before = tags.get(tag, (0, 0))
    tags[tag] = before[0] + documents, before[1] + words


def _count(part: Iterable[Any]) -> tuple[Counter[str], _Tags, int]:
    counts: Counter[str] = Counter()
    tags: _Tags = {}
    sentences = 0
    for sentence in part:
        words: Sequence[str] = getattr(sentence, "words", sentence)
        if isinstance(words, str):
            raise ModelError(
                f"a sentence is the string {words!r:.60}; expected a list of words (split it)"
            )
        counts.update(words)
        sentences += 1
        for tag in getattr(sentence, "tags", ()):
            _count_tag(tags, tag, 1, len(words))
    return counts, tags, sentences


def _chunks(sentences: Iterable[Any], size: int) -> Iterator[tuple[list[Any], int]]:
    chunk: list[Any] = []
    words = 0
    for sentence in sentences:
        chunk.append(sentence)
        words += len(getattr(sentence, "words", sentence))
        if words >= size:
            yield chunk, words
            chunk, words = [], 0
    if chunk:
        yield chunk, words


__all__ = ["TIERS", "WORD_VECTORS", "Embedding", "build_vocab", "chunk_words"]
