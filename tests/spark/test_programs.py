"""Programs that exist: DeepDist's word2vec, other models under its signature, quickstart."""

import gzip
import importlib.util
import os
import random
import socket
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from gensim.models import Word2Vec
from gensim.models.doc2vec import Doc2Vec, TaggedDocument
from pyspark.sql import SparkSession

from zmqdist import DeepDist, ZmqDist, delta
from zmqdist.errors import ConfigError
from zmqdist.models.gensim import build_vocab

pytestmark = pytest.mark.spark

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DEEPDIST = EXAMPLES / "deepdist_program.py"

# So that the scores of the quickstart have words to compare.
WORDS = (
    "love sex tiger cat book paper computer keyboard internet plane car train telephone "
    "communication television radio media bread butter cucumber potato doctor nurse student "
    "king queen man woman boy girl brother sister father mother london paris england france"
).split()


def sentences(count, seed):
    made = random.Random(seed)
    return [[made.choice(WORDS) for _ in range(12)] for _ in range(count)]


@pytest.fixture
def master():
    """Return ``127.0.0.1:PORT`` with a port that is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture(scope="module")
def program():
    """The example, imported by its path: its functions travel by value."""
    spec = importlib.util.spec_from_file_location("seed", DEEPDIST)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_deepdist_program_three_times_in_one_with(sc, program, master):
    corpus = sc.parallelize(sentences(200, 1), 4)
    model = Word2Vec(corpus.collect(), vector_size=16, min_count=1, workers=1, seed=1)
    with DeepDist(model, master, min_updates=8) as dd:
        assert dd.address == f"tcp://{master}"
        for turn in (1, 2, 3):
            before = model.wv.vectors.copy(), model.syn1neg.copy()
            result = dd.train(corpus, program.gradient, program.descent)
            assert dd.model is model
            assert (result.applied, result.rejected, result.failed) == (4, 0, 0)
            assert result.version == dd.version == 4 * turn
            for old, new in zip(before, (model.wv.vectors, model.syn1neg), strict=True):
                assert np.isfinite(new).all()
                assert (old != new).any(axis=1).mean() > 0.9  # nearly each word's row
        assert dd.stats()["applied"] == 4
    assert dd.version == 12
    assert len(model.wv.most_similar("king", topn=3)) == 3


def test_doc2vec(sc, master):
    documents = [TaggedDocument(words, [n % 20]) for n, words in enumerate(sentences(200, 2))]
    model = Doc2Vec(documents, vector_size=16, min_count=1, workers=1, seed=1)

    def gradient(model, items):
        items = list(items)
        with delta(model) as update:
            model.train(items, total_examples=len(items), epochs=1)
        return update

    before = model.dv.vectors.copy(), model.wv.vectors.copy(), model.syn1neg.copy()
    with DeepDist(model, master) as dd:
        for turn in (1, 2):
            result = dd.train(sc.parallelize(documents, 4), gradient)
            assert (result.applied, result.version) == (4, 4 * turn)
    for old, new in zip(before, (model.dv.vectors, model.wv.vectors, model.syn1neg), strict=True):
        assert np.isfinite(new).all()
        assert (old != new).any(axis=1).all()
    assert model.infer_vector(["king", "queen"]).shape == (16,)


def test_a_plain_numpy_model(sc, master):
    """Linear regression comes close to the weights that made the data.

    At a rate that bears a staleness of some 70 versions: a step here costs less than its
    way, so on a busy machine workers are far ahead of what they get back.
    """
    truth = np.array([2.0, -3.0, 0.5])
    made = np.random.default_rng(7)
    rows = [(x, float(x @ truth)) for x in made.normal(size=(4000, 3))]

    class Regression:
        def __init__(self):
            self.weights = np.zeros(3)
            self.seen = 0

    def gradient(model, batch):
        x = np.array([row[0] for row in batch])
        y = np.array([row[1] for row in batch])
        slope = x.T @ (x @ model.weights - y) / len(batch)
        return {"weights": slope, "seen": len(batch)}

    def descent(model, update):
        model.weights -= 0.02 * update["weights"]
        model.seen += update["seen"]

    model = Regression()
    with DeepDist(model, master, min_updates=2) as dd:
        result = dd.train(sc.parallelize(rows, 4), gradient, descent, epochs=3, batch_size=20)
        assert result.version == result.applied == 3 * 200
    assert model.seen == result.examples == 12_000
    assert np.abs(model.weights - truth).max() < 0.01, result.summary()


def test_evaluation_beside_spark_ends_the_run(sc):
    def gradient(model, items):
        for _ in items:
            yield {"w": np.ones(3)}

    with ZmqDist({"w": np.zeros(3)}) as dd:
        result = dd.train(
            sc.parallelize(range(2_000_000), 4),
            gradient,
            evaluate=lambda model: {"least": model["w"].min(), "most": model["w"].max()},
            evaluate_every_s=0.1,
            stop_when=lambda now: now["least"] >= 20,
        )
    last = result.evaluations[-1]
    assert result.stopped == "stop_when was true of an evaluation"
    assert last["least"] == last["most"] == last["version"] == result.version >= 20


def test_a_vocabulary_from_a_column(sc):
    spark = SparkSession(sc)
    texts = [" ".join(words) for words in sentences(100, 3)] + [
        "",
        None,
        "  two  spaces\tand a tab ",
    ]
    rows = [(n, text, None if text is None else text.split()) for n, text in enumerate(texts)]
    frame = spark.createDataFrame(rows, "id long, `the text` string, words array<string>")
    expected = Word2Vec(vector_size=4, min_count=2)
    build_vocab(expected, [[text.split() for text in texts if text is not None]])
    for column in ("the text", "words"):
        for data in (frame, frame.select(column)):
            model = Word2Vec(vector_size=4, min_count=2)
            build_vocab(model, data, column=column if data is frame else None)
            assert model.wv.index_to_key == expected.wv.index_to_key
            assert model.corpus_total_words == expected.corpus_total_words
            assert model.corpus_count == expected.corpus_count == 102
    model = Word2Vec(vector_size=4)
    for column in (None, "id", "missing"):
        with pytest.raises(ConfigError, match=r"expected one of \['the text', 'words'\]"):
            build_vocab(model, frame, column=column)
    with pytest.raises(ConfigError, match="Doc2Vec needs tags"):
        build_vocab(Doc2Vec(vector_size=4), frame, column="words")
    with ZmqDist(expected) as dd, pytest.raises(ConfigError, match=r"got a DataFrame; pass.*\.rdd"):
        dd.train(frame, lambda model, rows: None)


def test_a_column_is_split_where_python_splits(sc):
    white = [char for char in map(chr, range(sys.maxunicode + 1)) if char.isspace()]
    texts = [f"{char}left{char}{char}right" for char in white] + ["of\u200bone", "of\ufeffone"]
    frame = SparkSession(sc).createDataFrame([(text,) for text in texts], "text string")
    model = Word2Vec(vector_size=4, min_count=1)
    build_vocab(model, frame)
    counted = {word: model.wv.get_vecattr(word, "count") for word in model.wv.index_to_key}
    assert counted == Counter(word for text in texts for word in text.split())


@pytest.fixture
def text(tmp_path):
    """A text for the example, and a PATH whose python3 knows nothing of zmqdist."""
    path = tmp_path / "text.txt"
    path.write_text("\n".join(" ".join(f"w{n}" for n in range(120)) for _ in range(5)))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to(Path(sys._base_executable).resolve())
    return path.as_uri(), f"{tmp_path / 'bin'}:{os.environ['PATH']}"


def test_the_deepdist_program_brings_its_python(start, text):
    out = start(DEEPDIST, text[0], PYSPARK_PYTHON=None, PATH=text[1]).output(100)
    assert out.startswith("[('w")


def test_executors_without_zmqdist(start, text):
    program = start(DEEPDIST, text[0], PYSPARK_PYTHON="python3", PATH=text[1])
    message = r"ConfigError: the executors run python3, which cannot import '\w+'; on this machine"
    with pytest.raises(AssertionError, match=message):
        program.output(100)


def test_quickstart_shows_its_options(start):
    out = start(EXAMPLES / "quickstart.py", "--help").output(60)
    for option in ("--input", "--master", "--epochs", "--partitions", "--no-compare"):
        assert option in out


@pytest.mark.slow
def test_quickstart_on_a_small_text(start, tmp_path):
    path = tmp_path / "text.txt.gz"
    with gzip.open(path, "wt", encoding="utf-8") as text:
        text.writelines(" ".join(words).title() + ".\n\n" for words in sentences(2000, 3))
    options = ("--input", path.as_uri(), "--epochs", "1", "--no-compare", "--dim", "12")
    out = start(EXAMPLES / "quickstart.py", *options).output(100)
    assert f"24,000 words, {len(WORDS)} in the vocabulary" in out
    assert "zmqdist on Spark" in out
    assert "gensim, one process" not in out
    assert "  king " in out
    assert "updates applied" in out
    applied = next(line for line in out.splitlines() if line.startswith("updates applied"))
    # 24,000 words in one partition, 7,000 at a time with two workers, and what is left
    assert applied.split()[-1] == "5"
