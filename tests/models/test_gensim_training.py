"""The ready gradient of gensim's models, and their vocabulary counted in partitions."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gensim.corpora import WikiCorpus
from gensim.models import Doc2Vec, FastText, Word2Vec
from gensim.models.doc2vec import TaggedDocument
from gensim.test.utils import datapath

from zmqdist import ZmqDist, delta
from zmqdist.errors import ConfigError, ModelError
from zmqdist.models import parameters_of
from zmqdist.models.gensim_training import WORD_VECTORS, Embedding, build_vocab
from zmqdist.models.tiers import REFRESH, Tiers

TEXT = [[f"w{(n * m * m) % 29}" for n in range(12)] for m in range(1, 60)] + [["rare", "w1"] * 6]
PARTS = [TEXT[:20], TEXT[20:21], TEXT[21:]]
DOCUMENTS = [TaggedDocument(words, [f"d{n:03}"]) for n, words in enumerate(TEXT)]
DOCUMENT_PARTS = [DOCUMENTS[:30], DOCUMENTS[30:]]
SMALL: dict[str, Any] = {"vector_size": 8, "min_count": 8, "workers": 1, "seed": 1, "epochs": 3}
WORDS = sum(map(len, TEXT))
CHUNKS = Embedding(chunk_words=100, tiers=Tiers(hot_rows=5, all_every=3, keep_bits=7))


def built(cls: type[Any], parts: Any = PARTS, **options: Any) -> Any:
    model = cls(**{**SMALL, **options})
    build_vocab(model, parts)
    return model


def by_gensim(cls: type[Any], data: Any = TEXT, **options: Any) -> Any:
    model = cls(**{**SMALL, **options})
    model.build_vocab(data)
    return model


def counts(model: Any) -> dict[str, int]:
    return {word: model.wv.get_vecattr(word, "count") for word in model.wv.index_to_key}


# ---- the vocabulary ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "parts", "data", "options"),
    [
        (Word2Vec, PARTS, TEXT, {}),
        (Word2Vec, PARTS, TEXT, {"hs": 1, "negative": 0}),
        (Word2Vec, PARTS, TEXT, {"max_final_vocab": 9, "min_count": 1}),
        (FastText, PARTS, TEXT, {"bucket": 100}),
        (Doc2Vec, DOCUMENT_PARTS, DOCUMENTS, {}),
    ],
)
def test_same_as_gensims_own(cls: type[Any], parts: Any, data: Any, options: Any) -> None:
    ours, theirs = built(cls, parts, **options), by_gensim(cls, data, **options)
    assert counts(ours) == counts(theirs)
    assert "rare" not in counts(ours)
    assert "w0" in counts(ours)
    in_order = [
        [model.wv.get_vecattr(i, "count") for i in range(len(model.wv))] for model in (ours, theirs)
    ]
    assert in_order[0] == in_order[1] == sorted(in_order[0], reverse=True)
    assert ours.corpus_total_words == theirs.corpus_total_words == WORDS
    assert ours.corpus_count == theirs.corpus_count == len(TEXT)
    assert ours.words_done == 0
    expected = {name: array.shape for name, array in parameters_of(theirs).arrays().items()}
    assert {n: array.shape for n, array in parameters_of(ours).arrays().items()} == expected
    samples = [{w: m.wv.get_vecattr(w, "sample_int") for w in counts(m)} for m in (ours, theirs)]
    assert samples[0] == samples[1]


def test_the_order_is_the_same_however_the_text_is_cut() -> None:
    cut = [built(Word2Vec, parts).wv.index_to_key for parts in (PARTS, [TEXT], PARTS[::-1])]
    assert cut[0] == cut[1] == cut[2]


def test_tags_of_documents() -> None:
    documents = [
        TaggedDocument(["a", "b"] * 4, ["x", "y"]),
        TaggedDocument(["a"] * 3, ["y"]),
        TaggedDocument(["b"] * 5, ["x"]),
    ]
    ours = built(Doc2Vec, [documents[:1], documents[1:]], min_count=1)
    theirs = by_gensim(Doc2Vec, documents, min_count=1)
    assert ours.dv.index_to_key == theirs.dv.index_to_key == ["x", "y"]
    for name in ("doc_count", "word_count"):
        for tag in ("x", "y"):
            assert ours.dv.get_vecattr(tag, name) == theirs.dv.get_vecattr(tag, name), (tag, name)
    np.testing.assert_array_equal(ours.dv.vectors, theirs.dv.vectors)


def test_documents_with_numbers_for_tags() -> None:
    documents = [TaggedDocument(words, [n]) for n, words in enumerate(TEXT)]
    ours = built(Doc2Vec, [documents[:30], documents[30:]])
    theirs = by_gensim(Doc2Vec, documents)
    assert ours.dv.vectors.shape == theirs.dv.vectors.shape
    for tag in (0, 7, 58):
        assert ours.dv.get_index(tag) == tag
        np.testing.assert_array_equal(ours.dv[tag], theirs.dv[tag])


class Partitions:
    """As much of an RDD as the count needs."""

    def __init__(self, parts: Any) -> None:
        self._parts = parts

    def mapPartitions(self, function: Any) -> Partitions:  # noqa: N802 - Spark's name
        return Partitions([list(function(iter(part))) for part in self._parts])

    def collect(self) -> list[Any]:
        return list(itertools.chain.from_iterable(self._parts))


def test_counting_where_the_text_is() -> None:
    assert counts(built(Word2Vec, Partitions(PARTS))) == counts(by_gensim(Word2Vec))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([["a sentence"], []], "a sentence is the string 'a sentence'; expected a list of words"),
        ([TEXT[:1]], r"no word occurs min_count=8 times among 12 .* in 1 sentences"),
        ([], "among 0 different words in 0 sentences"),
        ([[], []], "among 0 different words in 0 sentences"),
    ],
)
def test_text_that_gives_no_vocabulary(parts: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        built(Word2Vec, parts)


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (built(Word2Vec), [TEXT[0], "w1 w2"]),
        (built(Doc2Vec, DOCUMENT_PARTS), [DOCUMENTS[0], TaggedDocument("w1 w2", ["d001"])]),
    ],
    ids=str,
)
def test_a_sentence_that_is_no_list_of_words(model: Any, data: Any) -> None:
    """Its letters would be trained, most of which are not in the vocabulary."""
    gradient = CHUNKS(model, data)
    with pytest.raises(ModelError, match=r"a sentence is the string 'w1 w2'; expected a list of"):
        list(gradient)


def test_a_model_with_a_vocabulary() -> None:
    model = built(Word2Vec)
    with pytest.raises(ModelError, match=r"has a vocabulary already; to go on .*words_done = 0"):
        build_vocab(model, PARTS)


def test_neither_kind_of_output() -> None:
    with pytest.raises(ModelError, match=r"hs=0 and negative=0, so nothing would be learned"):
        built(Word2Vec, hs=0, negative=0)


def test_a_column_is_of_a_data_frame() -> None:
    with pytest.raises(ConfigError, match=r"column='text' is for a DataFrame; got a list"):
        build_vocab(Word2Vec(**SMALL), PARTS, column="text")


@pytest.mark.parametrize(
    ("cls", "options", "numbers"),
    [  # words times size, for inputs and outputs
        (Word2Vec, {}, 29 * 8 * 2),
        (Word2Vec, {"hs": 1}, 29 * 8 * 3),
        (Word2Vec, {"max_final_vocab": 9, "min_count": 1}, 9 * 8 * 2),
        (FastText, {"bucket": 100}, (29 * 3 + 100) * 8),
        (Doc2Vec, {}, (29 * 2 + len(TEXT)) * 8),
    ],
    ids=str,
)
def test_a_vocabulary_larger_than_memory(
    cls: type[Any], options: Any, numbers: int, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    parts = DOCUMENT_PARTS if cls is Doc2Vec else PARTS
    where = "zmqdist.models.vocabulary.available_bytes"
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert len(counts(built(Word2Vec))) == 29
    monkeypatch.setattr(where, lambda: 4 * numbers * 2 - 1)  # two copies on the master
    with pytest.raises(ModelError, match=r"(?s)free; the master holds 2 .* max_final_vocab"):
        built(cls, parts, **options)
    assert caplog.text == ""
    monkeypatch.setattr(where, lambda: 4 * numbers * (2 + 4 * 3) - 1)  # and three on each worker
    built(cls, parts, **options)
    assert "with 4 workers on this machine that is too much" in caplog.text
    caplog.clear()
    monkeypatch.setattr(where, lambda: 4 * numbers * (2 + 4 * 3))
    built(cls, parts, **options)
    assert caplog.text == ""


def test_a_vocabulary_by_other_means() -> None:
    model = by_gensim(Word2Vec)
    with pytest.raises(ModelError, match=r"counts no words.*set model\.words_done = 0 before"):
        next(Embedding(100)(model, TEXT))


@pytest.mark.parametrize("chunk_words", [0, -1, 1.5, "all"])
def test_chunks_of_no_words(chunk_words: Any) -> None:
    with pytest.raises(ConfigError, match=r"chunk_words is .*; expected an integer >= 1"):
        Embedding(chunk_words)


# ---- the gradient alone ------------------------------------------------------------------------


def test_the_learning_rate_falls_by_the_count_of_all_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = built(Word2Vec, alpha=0.1, min_alpha=0.01)
    total = 3 * WORDS
    rates: list[tuple[float, int]] = []
    monkeypatch.setattr(
        model, "_do_train_job", lambda job, alpha, memory: rates.append((alpha, len(job)))
    )
    chunks = Embedding(chunk_words=30)(model, TEXT[:8])
    for done in (0, total // 2, 10 * total):
        model.words_done = done
        update = next(chunks)
        assert update.arrays == {"words_done": update.examples}
        assert update.examples == (36 if done < total else 24)
    assert next(chunks, None) is None
    expected = [(0.1, 3), (0.055, 3), (0.01, 2)]
    np.testing.assert_allclose(rates, expected, rtol=1e-3)


def test_chunks_hold_whole_sentences_once() -> None:
    model = built(Word2Vec)
    seen: list[Any] = []
    model._do_train_job = lambda job, alpha, memory: seen.append(list(job))
    yielded = [update.examples for update in Embedding(chunk_words=25)(model, iter(TEXT))]
    assert list(itertools.chain.from_iterable(seen)) == TEXT
    assert sum(yielded) == WORDS
    assert all(words >= 25 for words in yielded[:-1])


def test_a_chunk_of_some_length_is_trained_in_three_parts() -> None:
    model = built(Word2Vec)
    seen: list[Any] = []
    model._do_train_job = lambda job, alpha, memory: seen.append(sum(map(len, job)))
    yielded = list(Embedding(chunk_words=6_600)(model, TEXT * (13_200 // WORDS + 1)))
    for chunk in seen[:3], seen[3:6]:
        assert min(chunk) >= 2_000
        assert max(chunk) - min(chunk) <= 400
    kinds = ["refresh" if said is REFRESH else "chunk" for said in yielded]
    assert kinds[:6] == ["refresh", "refresh", "chunk"] * 2
    assert sum(seen) == sum(said.examples for said in yielded if said is not REFRESH)


@pytest.mark.parametrize(("words", "parts"), [(1_900, 1), (3_500, 1), (4_100, 2), (30_000, 3)])
def test_parts_are_no_shorter_than_worth_while(words: int, parts: int) -> None:
    model = built(Word2Vec)
    seen: list[Any] = []
    model._do_train_job = lambda job, alpha, memory: seen.append(job)
    text = TEXT * (words // WORDS + 1)
    for said in Embedding(chunk_words=words)(model, text):
        if said is not REFRESH:
            break
    assert len(seen) == parts


class Passes(list[Any]):
    """Sentences that come after so many passes."""

    passes = 0.0


@pytest.mark.parametrize(
    ("passes", "words"), [(0, 120), (1, 180), (1.5, 240), (2.25, 480), (3, 480), (7.5, 480)]
)
@pytest.mark.parametrize("growth", [1.0, 1.5, 4.0])
def test_chunks_grow_as_the_learning_rate_falls(passes: float, words: int, growth: float) -> None:
    model = built(Word2Vec, alpha=0.05, min_alpha=0.0)
    assert model.epochs == 3
    model._do_train_job = lambda job, alpha, memory: None
    text = Passes(TEXT * 10)
    text.passes = passes
    first = next(Embedding(chunk_words=120, max_growth=growth)(model, text))
    assert first.examples == min(words, 120 * growth)


def test_the_learning_rate_may_stay_or_rise() -> None:
    for alpha, least in ((0.05, 0.05), (0.01, 0.05)):
        model = built(Word2Vec, alpha=alpha, min_alpha=least)
        model._do_train_job = lambda job, alpha, memory: None
        text = Passes(TEXT)
        text.passes = 2.0
        assert next(Embedding(chunk_words=120)(model, text)).examples == 120


@pytest.mark.parametrize("growth", [0.5, None, "4", float("nan")])
def test_growth_is_no_shrinking(growth: Any) -> None:
    with pytest.raises(ConfigError, match=r"max_growth is .*; expected a number >= 1"):
        Embedding(max_growth=growth)


# ---- end to end, in two processes ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "parts", "options"),
    [
        (Word2Vec, PARTS, {"hs": 1, "negative": 5, "sg": 1}),
        (FastText, PARTS, {"bucket": 100}),
        (Doc2Vec, DOCUMENT_PARTS, {}),
        (Doc2Vec, DOCUMENT_PARTS, {"dm": 0, "dbow_words": 1}),
    ],
)
def test_trains_saves_and_goes_on(
    cls: type[Any], parts: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    model = built(cls, parts, alpha=0.1, **options)
    unknown = TaggedDocument(["never", "seen"], ["d000"]) if cls is Doc2Vec else ["never", "seen"]
    data = [*parts[:-1], [*parts[-1], unknown]]
    before = {name: array.copy() for name, array in parameters_of(model).arrays().items()}
    with ZmqDist(model, **WORD_VECTORS) as dd:
        result = dd.train(data, CHUNKS, epochs=model.epochs, workers=2)
    assert model.words_done == result.examples == 3 * (WORDS + 2)
    for name, array in parameters_of(model).arrays().items():
        assert np.isfinite(array).all(), name
        assert not np.array_equal(array, before[name]), name
    if options.get("hs"):
        assert {"syn1", "syn1neg"} <= set(before)
    if cls is FastText:
        composed = model.wv.vectors.copy()
        model.wv.adjust_vectors()
        size = np.abs(composed).max()  # of the terms that a small sum may be made of
        np.testing.assert_allclose(composed, model.wv.vectors, rtol=1e-5, atol=1e-6 * size)
        assert np.isfinite(model.wv["unheard"]).all()

    model.save(str(tmp_path / "model"))
    loaded = cls.load(str(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.wv.vectors, model.wv.vectors)
    assert loaded.wv.most_similar("w1") == model.wv.most_similar("w1")
    text = DOCUMENTS if cls is Doc2Vec else TEXT
    loaded.train(text, total_examples=loaded.corpus_count, epochs=1)
    assert not np.array_equal(loaded.wv.vectors, model.wv.vectors)
    if cls is Doc2Vec:
        assert np.isfinite(loaded.infer_vector(TEXT[0])).all()
        np.testing.assert_array_equal(loaded.dv["d001"].shape, (8,))


def test_goes_on_with_a_trained_model() -> None:
    model = by_gensim(Word2Vec)
    model.train(TEXT, total_examples=len(TEXT), epochs=1)
    model.words_done = 0
    before = model.wv.vectors.copy()
    with ZmqDist(model, **WORD_VECTORS) as dd:
        dd.train(PARTS, CHUNKS, workers=2)
        dd.train(PARTS, CHUNKS, workers=2)
    assert model.words_done == 2 * WORDS
    assert not np.array_equal(model.wv.vectors, before)


def test_a_worker_alone_learns_as_gensim_does() -> None:
    """Without random numbers, the same chunks at the same rate make the same model."""
    plain = {"epochs": 1, "negative": 0, "hs": 1, "sample": 0, "shrink_windows": False}
    plain |= {"alpha": 0.05, "min_alpha": 0.05}
    ours, theirs = built(Word2Vec, [TEXT], **plain), built(Word2Vec, [TEXT], **plain)
    for update in CHUNKS(theirs, TEXT):
        theirs.words_done += update.arrays["words_done"]
    exact = Embedding(chunk_words=100, tiers=Tiers(hot_rows=5, all_every=3))
    with ZmqDist(ours, staleness=WORD_VECTORS["staleness"]) as dd:
        dd.train([TEXT], exact, workers=1)
    np.testing.assert_allclose(ours.wv.vectors, theirs.wv.vectors, atol=1e-6)
    np.testing.assert_allclose(ours.syn1, theirs.syn1, atol=1e-6)


# ---- the claim ---------------------------------------------------------------------------------

EPOCHS, WORKERS = 8, 8


def wikipedia() -> list[list[str]]:
    """Return the extract inside the gensim wheel: 453,000 words in lines of 200."""
    name = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
    lines = []
    for article in WikiCorpus(datapath(name), dictionary={}, processes=1).get_texts():
        words = iter(article)
        lines += iter(lambda words=words: list(itertools.islice(words, 200)), [])
    return lines


def deltas(model: Any, sentences: Any) -> Any:
    """The plain program: trains on about 10,000 words, hands in the difference."""
    total = model.epochs * model.corpus_total_words
    while chunk := list(itertools.islice(sentences, 50)):
        alpha = max(model.min_alpha, model.alpha * (1 - model.words_done / total))
        with delta(model) as update:
            model.train(
                chunk, total_examples=len(chunk), epochs=1, start_alpha=alpha, end_alpha=alpha
            )
        update["words_done"] = sum(map(len, chunk))
        yield update


def judged(model: Any) -> tuple[float, float]:
    """Return Spearman's rho on WordSim-353 and the largest norm of a vector."""
    _, spearman, _ = model.wv.evaluate_word_pairs(datapath("wordsim353.tsv"))
    return float(spearman.statistic), float(np.linalg.norm(model.wv.vectors, axis=1).max())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_eight_workers_learn_what_one_process_learns(caplog: pytest.LogCaptureFixture) -> None:
    text = wikipedia()
    parts = [text[worker::WORKERS] for worker in range(WORKERS)]
    options = {"vector_size": 50, "min_count": 5, "epochs": EPOCHS}
    plain, tiers, summed = (built(Word2Vec, parts, **options) for _ in range(3))
    plain.train(text, total_examples=len(text), epochs=EPOCHS)
    with ZmqDist(tiers, **WORD_VECTORS) as dd:
        dd.train(parts, Embedding(), epochs=EPOCHS, workers=WORKERS)
    assert "training runs away" not in caplog.text
    with ZmqDist(summed, staleness=WORD_VECTORS["staleness"]) as dd:
        dd.train(parts, deltas, epochs=2, workers=WORKERS)  # is enough to come apart
    assert "training runs away: the rows of wv.vectors and syn1neg" in caplog.text
    (rho, norm), (rho_tiers, norm_tiers), (rho_summed, norm_summed) = map(
        judged, (plain, tiers, summed)
    )
    figures = f"rho {rho:.3f} {rho_tiers:.3f} {rho_summed:.3f}, norm "
    figures += f"{norm:.1f} {norm_tiers:.1f} {norm_summed:.1f}"
    print(figures)  # noqa: T201
    assert all(np.isfinite(array).all() for array in parameters_of(tiers).arrays().values())
    assert norm_tiers < 2 * norm, figures
    assert rho_tiers > 0.7 * rho, figures
    assert rho_summed < 0.6 * rho, figures
    assert norm_summed > 1.3 * norm, figures
