"""The vocabulary of gensim's Word2Vec, Doc2Vec and FastText, counted where the text is."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from gensim.models import Doc2Vec, FastText

from zmqdist.errors import ConfigError, ModelError

log = logging.getLogger(__name__)

WHITE = "".join(filter(str.isspace, map(chr, range(0x10000))))
"""Where `str.split` splits: more characters than the ``\\s`` of SQL has, Unicode's or not."""

_Tags = dict[Any, tuple[int, int]]  # tag -> its documents, their words
_Counted = tuple[dict[str, int], _Tags, int]  # words, tags, sentences


def build_vocab(model: Any, sentences: Any, *, column: str | None = None) -> None:
    """Count the words where the text is and give the model its vocabulary.

    Parameters
    ----------
    model : Word2Vec, Doc2Vec or FastText
        Without a vocabulary yet.
    sentences : RDD, DataFrame or list of iterables
        Partitions of sentences (lists of words) or, for Doc2Vec, of `TaggedDocument`. No
        text is collected: of each partition only its counts travel, and for Doc2Vec
        the documents' tags. A DataFrame counts in SQL, and only its counts travel.
    column : str, optional
        Of a DataFrame: the column of sentences, arrays of words or strings that are
        split at white space. Default: the only one of such a type.

    Raises
    ------
    ModelError
        The model has a vocabulary, or learns nothing, or no word occurs `min_count`
        times, or the vectors do not fit into memory.
    ConfigError
        The DataFrame has no such column.
    """
    if len(model.wv.index_to_key):
        raise ModelError(
            "the model has a vocabulary already; to go on with a trained model, set "
            "model.words_done = 0 and call train() without build_vocab"
        )
    if not model.hs and not model.negative:
        raise ModelError(
            "the model has hs=0 and negative=0, so nothing would be learned; set negative=5 "
            "for negative sampling, hs=1 for hierarchical softmax, or both"
        )
    if hasattr(sentences, "selectExpr"):
        counts, tags, n_sentences = _of_column(model, sentences, column)
    elif column is not None:
        raise ConfigError(f"column={column!r} is for a DataFrame; got a {type(sentences).__name__}")
    else:
        counts, tags, n_sentences = _of_partitions(sentences)
    kept = sum(count >= model.min_count for count in counts.values())
    if not kept:
        raise ModelError(
            f"no word occurs min_count={model.min_count} times among {len(counts):,} different "
            f"words in {n_sentences:,} sentences; lower min_count, or check that the data holds "
            "lists of words"
        )
    _check_memory(model, min(kept, getattr(model, "max_final_vocab", None) or kept), len(tags))
    # Spark's order differs from run to run, and equal counts keep the order they come in
    ordered = dict(sorted(counts.items()))
    if isinstance(model, Doc2Vec):
        _give_tags(model, tags)
    model.build_vocab_from_freq(ordered, corpus_count=n_sentences)
    model.corpus_total_words = sum(counts.values())
    model.words_done = 0


# ---- counting ----------------------------------------------------------------------------------


def _of_partitions(sentences: Any) -> _Counted:
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
    return counts, tags, sum(part[2] for part in parts)


def _of_column(model: Any, frame: Any, column: str | None) -> _Counted:
    """Count in SQL: the same for classic DataFrames and those of Spark Connect."""
    if isinstance(model, Doc2Vec):
        raise ConfigError(
            "Doc2Vec needs tags, which a column of text has not; pass an RDD of TaggedDocument"
        )
    fitting = {name: kind for name, kind in frame.dtypes if kind in ("string", "array<string>")}
    if column is None and len(fitting) == 1:
        (column,) = fitting
    if column is None or column not in fitting:
        raise ConfigError(
            f"column={column!r}; expected one of {list(fitting)}, the columns of strings or of "
            f"arrays of strings of {dict(frame.dtypes)}"
        )
    name = f"`{column.replace('`', '``')}`"
    words = name if fitting[column] != "string" else f"split({name}, '[{WHITE}]+')"
    found = (
        frame.selectExpr(f"explode({words}) AS word")
        .where("word <> ''")
        .groupBy("word")
        .count()
        .collect()
    )
    return (
        {row["word"]: row["count"] for row in found},
        {},
        frame.where(f"{name} IS NOT NULL").count(),
    )


def _count(part: Iterable[Any]) -> _Counted:
    counts: Counter[str] = Counter()
    tags: _Tags = {}
    sentences = 0
    for sentence in part:
        words = words_of(sentence)
        counts.update(words)
        sentences += 1
        for tag in getattr(sentence, "tags", ()):
            _count_tag(tags, tag, 1, len(words))
    return counts, tags, sentences


def words_of(sentence: Any) -> Sequence[str]:
    """Return the words of a sentence or a document; a string would be one of letters.

    Raises
    ------
    ModelError
    """
    words: Sequence[str] = getattr(sentence, "words", sentence)
    if isinstance(words, str):
        raise ModelError(
            f"a sentence is the string {words!r:.60}; expected a list of words (split it)"
        )
    return words


def _count_tag(tags: _Tags, tag: Any, documents: int, words: int) -> None:
    before = tags.get(tag, (0, 0))
    tags[tag] = before[0] + documents, before[1] + words


def _give_tags(model: Doc2Vec, tags: _Tags) -> None:
    """Make one vector for each tag, as Doc2Vec's own scan does for tags in order."""
    for tag in sorted(tags, key=lambda tag: (isinstance(tag, str), tag)):
        model.dv.key_to_index[tag] = len(model.dv.index_to_key)
        model.dv.index_to_key.append(tag)
    for tag, (documents, words) in tags.items():
        model.dv.set_vecattr(tag, "doc_count", documents)
        model.dv.set_vecattr(tag, "word_count", words)


# ---- memory --------------------------------------------------------------------------------------

MASTER_COPIES = 2
"""Copies of the parameters on the master: the model and what is published."""

WORKER_COPIES = 3
"""Copies of the parameters in a worker that trains in place: the model, what it knows of
the master's, and what came in."""


def _check_memory(model: Any, n_words: int, n_tags: int) -> None:
    """Refuse vectors that do not fit on this machine; warn if those of its workers may not."""
    outputs = (model.hs > 0) + (model.negative > 0)
    rows = n_words * (1 + outputs) + n_tags
    if isinstance(model, FastText):
        rows += n_words + model.wv.bucket  # the words' own vectors beside the composed ones
    copy_bytes = 4 * rows * model.vector_size
    free_bytes = available_bytes()
    what = (
        f"{n_words:,} words x {model.vector_size} numbers make {copy_bytes / 1e9:,.1f} GB, and "
        f"this machine has {free_bytes / 1e9:,.1f} GB free"
    )
    advice = f"raise min_count (now {model.min_count}), set max_final_vocab or lower vector_size"
    if MASTER_COPIES * copy_bytes > free_bytes:
        raise ModelError(f"{what}; the master holds {MASTER_COPIES} copies: {advice}")
    cores = os.cpu_count() or 1
    if (MASTER_COPIES + cores * WORKER_COPIES) * copy_bytes > free_bytes:
        log.warning(
            "%s; the master holds %d copies, and each worker up to %d: with %d workers on this "
            "machine that is too much. Use fewer workers here, or %s",
            what,
            MASTER_COPIES,
            WORKER_COPIES,
            cores,
            advice,
        )


def available_bytes() -> int:
    """Return the memory that this machine can give to new processes, in bytes."""
    try:
        with open("/proc/meminfo") as lines:
            sizes = dict(line.split(":") for line in lines)
        return int(sizes["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
