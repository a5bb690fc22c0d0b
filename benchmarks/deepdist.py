"""Against a master in DeepDist's manner: HTTP, pickle, whole models (`_http.py`).

"rows": a gradient that touches 5 % of the rows of two arrays of 68,000 x 100. DeepDist's
programs send differences of whole arrays; zmqdist's send the rows.

"job": word vectors of that size, from the first words of the text, in 60 partitions, once
over. "unchanged" is DeepDist's own program under zmqdist, one update for each partition;
"in place" is what zmqdist offers for it. With local processes, or tasks of Spark.
"""

import collections
import concurrent.futures
import functools
import glob
import gzip
import itertools
import multiprocessing
import os
import time

import numpy as np

from benchmarks import _http, _raw
from benchmarks._harness import Case
from benchmarks._spark import session
from zmqdist import DeepDist, RowSparse, ZmqDist
from zmqdist.staleness import Asynchronous

SHAPE, TOUCHED = (68_000, 100), 3_400
NAMES = ("vectors", "syn1neg")
WORKERS = 2
STEPS, TASKS = 200, 16
"""Updates of each worker under zmqdist; tasks in all under DeepDist."""


def arguments(add):
    add("--data", metavar="DIR", help="folder of text files; without it the job is left out")
    add("--words", type=int, default=5_000_000, help="of the text (default: %(default)s)")
    add("--partitions", type=int, default=60, help="(default: %(default)s)")
    add("--engine", choices=("local", "spark", "both"), default="local", help="of the job")


def cases(options):
    for security in ("none", "curve"):
        rows = Rows(security)
        name = f"rows, updates, {'plain' if security == 'none' else security}"
        yield Case(name, rows.rate, rows.http_rate, "updates/s", "ratio >= 20")
    yield Case(
        "rows, bytes per update",
        lambda: rows.bytes / 1e6,
        lambda: rows.http_bytes / 1e6,
        "MB",
        "ratio <= 0.1",
    )
    if options.data:
        engines = ("local", "spark") if options.engine == "both" else (options.engine,)
        for engine in engines:
            yield from job_cases(options, engine)


def job_cases(options, engine):
    job = Job(options, engine)
    for form, target in (("in place", "ratio >= 3"), ("unchanged", "")):
        yield Case(
            f"job, {engine}, {form}",
            lambda form=form: job.trained(form),
            job.http,
            "words/s",
            target,
            repeats=min(3, options.repeats),
        )
        yield Case(
            f"job, {engine}, {form}, bytes per update",
            lambda: job.bytes / 1e6,
            lambda: job.http_bytes / 1e6,
            "MB",
            "ratio <= 0.1" if form == "in place" else "",
            repeats=1,
        )
    job.close()


# ---- a gradient that touches some rows ---------------------------------------------------------


class Rows:
    """Both systems, of which DeepDist's knows no encryption; remembers the bytes, both ways."""

    def __init__(self, security):
        self.security = security
        self.bytes = self.http_bytes = 0

    def rate(self):
        times = []

        def descent(model, update):
            for name in NAMES:
                model[name] += update[name]
            times.append(time.perf_counter())

        options = {"staleness": Asynchronous(), "security": self.security, "progress": False}
        with ZmqDist(new_arrays(), **options) as dd:
            data = [[seed] for seed in range(WORKERS)]
            result = dd.train(data, send_rows, descent, workers=WORKERS)
        assert result.applied == WORKERS * STEPS, result
        self.bytes = (result.bytes_received + result.bytes_published) / result.applied
        return 1 / _raw.seconds_per_item(times, len(times) // 4)

    def http_rate(self):
        def descent(model, update):
            for name in NAMES:
                model[name] += update[name]

        with _http.HttpMaster(new_arrays(), descent) as master, processes() as pool:
            orders = [(master.address, differ, seed) for seed in range(TASKS)]
            list(pool.map(_http.task, *zip(*orders, strict=True)))
        self.http_bytes = master.moved_bytes / TASKS
        return 1 / _raw.seconds_per_item(master.applied, TASKS // 4)


def processes():
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(WORKERS, context)


def new_arrays():
    return {name: np.ones(SHAPE, np.float32) for name in NAMES}


@functools.cache
def changes(seed):
    """Return rows and values of a few updates: to draw them takes longer than to send them."""
    rng = np.random.default_rng(seed)
    return [
        (
            np.sort(rng.choice(SHAPE[0], TOUCHED, replace=False)),
            rng.normal(size=(TOUCHED, SHAPE[1])).astype(np.float32),
        )
        for _ in range(8)
    ]


def send_rows(model, data):
    drawn = itertools.cycle(changes(next(data)))
    for _ in range(STEPS):
        yield {name: RowSparse(*next(drawn), SHAPE) for name in NAMES}


def differ(model, seed):
    """Change rows of the model in place, and return the difference, as DeepDist's programs do."""
    drawn = iter(changes(seed % WORKERS))
    before = {name: array.copy() for name, array in model.items()}
    for array in model.values():
        rows, values = next(drawn)
        array[rows] += values
    return {name: array - before[name] for name, array in model.items()}


# ---- the real job ------------------------------------------------------------------------------


class Job:
    """Word vectors of a part of the text, once over."""

    def __init__(self, options, engine):
        text = read(options.data)
        self.counts = collections.Counter(itertools.chain.from_iterable(text))
        self.partitions = cut(text, options.words, options.partitions)
        self.words = sum(len(line) for part in self.partitions for line in part)
        self.bytes = self.http_bytes = 0
        self.spark = session(WORKERS) if engine == "spark" else None
        self.rdd = None
        if self.spark:
            parts = list(enumerate(self.partitions))
            rdd = self.spark.sparkContext.parallelize(parts, len(parts))
            self.rdd = rdd.flatMap(lambda pair: pair[1]).persist()
            self.rdd.count()

    def close(self):
        if self.spark:
            self.spark.stop()

    def model(self):
        from gensim.models import Word2Vec

        model = Word2Vec(vector_size=SHAPE[1], min_count=1, workers=1, epochs=1)
        model.build_vocab_from_freq(dict(self.counts.most_common(SHAPE[0])))
        model.corpus_total_words, model.corpus_count = self.words, 1
        model.words_done = 0
        return model

    def trained(self, form):
        """Train with zmqdist; return words per second."""
        from zmqdist.models.gensim_training import WORD_VECTORS, Embedding, chunk_words

        model, data = self.model(), self.partitions if self.rdd is None else self.rdd
        workers = WORKERS if self.rdd is None else None
        if form == "in place":
            gradient = Embedding(chunk_words(model, WORKERS))
            with ZmqDist(model, progress=False, **WORD_VECTORS) as dd:
                result = dd.train(data, gradient, workers=workers)
        else:
            with DeepDist(model) as dd:
                result = dd.train(data, program, descent, workers=workers)
        self.bytes = (result.bytes_received + result.bytes_published) / result.applied
        return self.words / result.seconds

    def http(self):
        """Train in DeepDist's manner; return words per second."""
        count = len(self.partitions)
        with _http.HttpMaster(self.model(), descent) as master:
            address = master.address
            if self.rdd is not None:
                started = time.perf_counter()
                run = self.rdd.mapPartitions(lambda lines: [_http.task(address, program, lines)])
                run.collect()
                seconds = time.perf_counter() - started
            else:
                with processes() as pool:
                    started = time.perf_counter()
                    orders = [(address, program, part) for part in self.partitions]
                    list(pool.map(_http.task, *zip(*orders, strict=True)))
                    seconds = time.perf_counter() - started
        assert len(master.applied) == count
        self.http_bytes = master.moved_bytes / count
        return self.words / seconds


def program(model, sentences):
    """Compute what the gradient of DeepDist's own example does, in the words of gensim 4."""
    sentences = list(sentences)
    vectors, syn1neg = model.wv.vectors.copy(), model.syn1neg.copy()
    model.train(
        sentences,
        total_words=sum(map(len, sentences)),
        total_examples=len(sentences),
        epochs=1,
    )
    return {"vectors": model.wv.vectors - vectors, "syn1neg": model.syn1neg - syn1neg}


def descent(model, update):
    model.wv.vectors += update["vectors"]
    model.syn1neg += update["syn1neg"]


def read(folder):
    """Return all paragraphs of the text, as lists of words."""
    lines = []
    for path in sorted(glob.glob(os.path.join(folder, "*.txt*"))):
        with gzip.open(path, "rt") if path.endswith(".gz") else open(path) as file:
            lines += [line.split() for line in file]
    return lines


def cut(lines, words, partitions):
    """Return the first so many words in partitions of about the same size."""
    parts, at = [[] for _ in range(partitions)], 0
    for line in lines:
        if at >= words:
            break
        parts[at * partitions // words].append(line)
        at += len(line)
    return [part for part in parts if part]
