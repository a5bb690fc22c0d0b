"""Word vectors from many asynchronous workers against gensim on the same text.

The text is a folder of ``*.txt`` or ``*.txt.gz`` files of plain words, one paragraph a
line; each file is a partition, cut further if there are more workers than files. The last
paragraphs are held out from all. With several seeds the figures are means, and the JSON
holds each run under "runs". `--curve FILE` draws what was right after how many updates.
"""

import argparse
import glob
import gzip
import json
import os
import statistics
import sys
import tempfile
import time

import numpy as np
from gensim.models import KeyedVectors, Word2Vec
from gensim.test.utils import datapath

from benchmarks._embeddings import heldout_loss, scores
from benchmarks._gensim import cut
from benchmarks._spark import session

HELD_OUT = 500
"""Paragraphs at the end of the last file that nobody trains on."""


def main():
    options = arguments()
    partitions, held_out = read(options.data, options.workers)
    words = sum(len(line) for part in partitions for line in part)
    print(f"{words:,} words in {len(partitions)} partitions, {options.epochs} epochs", flush=True)
    runs = [run(options, seed, partitions, held_out) for seed in options.seeds]
    result = {"name": "word2vec", "options": vars(options), **mean(runs)}
    for rival in ("gensim", "mllib"):
        for figure in ("analogy", "wordsim"):
            if rival in result and "zmqdist" in result:
                ratio = result["zmqdist"][figure] / result[rival][figure]
                result[f"{figure}_ratio" + ("_mllib" if rival == "mllib" else "")] = round(ratio, 4)
    show(result, runs)
    if len(runs) > 1:
        result["runs"] = runs
    if options.json:
        print(json.dumps(result))


def run(options, seed, partitions, held_out):
    """Train with all systems from one seed; return {system: figures}."""
    results = {}
    for system, train in SYSTEMS.items():
        if system in options.systems:
            results[system] = train(options, seed, partitions, held_out)
            print(f"seed {seed}: {system} {results[system]}", flush=True)
    return results


def mean(runs):
    """Return {system: {figure: mean over the runs}}."""
    return {
        system: {figure: typical([run[system][figure] for run in runs]) for figure in figures}
        for system, figures in runs[0].items()
    }


def typical(values):
    middle = statistics.fmean(values)
    return round(middle) if all(isinstance(value, int) for value in values) else round(middle, 5)


def read(folder, at_least):
    """Return the partitions (lists of lists of words) and the held-out paragraphs."""
    paths = sorted(glob.glob(os.path.join(folder, "*.txt*")))
    if not paths:
        sys.exit(f"no *.txt or *.txt.gz in {folder}")
    partitions = []
    for path in paths:
        with gzip.open(path, "rt") if path.endswith(".gz") else open(path) as lines:
            partitions.append([line.split() for line in lines])
    held_out, partitions[-1] = partitions[-1][-HELD_OUT:], partitions[-1][:-HELD_OUT]
    cuts = -(-at_least // len(partitions))
    return [piece for part in partitions for piece in cut(part, cuts)], held_out


def new_model(options, seed):
    return Word2Vec(
        vector_size=100,
        window=5,
        min_count=5,
        workers=options.gensim_workers,
        epochs=options.epochs,
        alpha=options.alpha,
        seed=seed,
        sg=int(options.architecture.startswith("sg")),
        hs=int(options.architecture.endswith("-hs")),
        negative=0 if options.architecture.endswith("-hs") else 5,
    )


# ---- the systems ------------------------------------------------------------------------------


def with_gensim(options, seed, partitions, held_out):
    corpus = [line for part in partitions for line in part]
    model = new_model(options, seed)
    model.build_vocab(corpus)
    started = time.time()
    model.train(corpus, total_examples=len(corpus), epochs=options.epochs)
    seconds = time.time() - started
    return figures(seconds, count(options, partitions), judged(model, held_out))


def with_mllib(options, seed, partitions, held_out):
    """Spark MLlib's Word2Vec: skip-gram with hierarchical softmax, averaged at each iteration."""
    from pyspark.ml.feature import Word2Vec as MLlibWord2Vec

    spark = session(2)
    try:
        rows = ((line,) for part in partitions for line in part)
        frame = spark.createDataFrame(rows, "text array<string>")
        frame = frame.repartition(options.mllib_partitions).persist()
        frame.count()
        trainer = MLlibWord2Vec(
            inputCol="text",
            vectorSize=100,
            windowSize=5,
            minCount=5,
            seed=seed,
            numPartitions=options.mllib_partitions,
            maxIter=options.epochs,
            maxSentenceLength=10_000,
        )
        started = time.time()
        vectors = dict(trainer.fit(frame).getVectors().collect())
        seconds = time.time() - started
    finally:
        spark.stop()
    counted = new_model(options, seed)
    counted.build_vocab([line for part in partitions for line in part])
    order = [word for word in counted.wv.index_to_key if word in vectors]
    found = KeyedVectors(100)
    found.add_vectors(order, np.array([vectors[word] for word in order], np.float32))
    return figures(seconds, count(options, partitions), scores(found))


def with_zmqdist(options, seed, partitions, held_out):
    from zmqdist import ZmqDist
    from zmqdist.merge import RowTrustRegion
    from zmqdist.models.gensim import Embedding, build_vocab, chunk_words
    from zmqdist.models.tiers import Tiers
    from zmqdist.staleness import Asynchronous

    model = new_model(options, seed)
    gradient = Embedding(
        chunk_words=options.chunk_words or chunk_words(model, options.workers),
        max_growth=options.max_growth,
        tiers=Tiers(
            hot_rows=options.hot_rows,
            growth=options.growth,
            all_every=options.all_every,
            keep_bits=options.keep_bits,
            read_bits=options.read_bits,
        ),
    )
    data, workers, stop = distributed(options, partitions)
    build_vocab(model, data)
    merge = RowTrustRegion(options.cap) if options.cap else None
    try:
        with ZmqDist(model, staleness=Asynchronous(), merge=merge, progress="words") as dd:
            result = dd.train(
                data,
                gradient,
                epochs=options.epochs,
                workers=workers,
                evaluate=an_eighth if options.curve else None,
                evaluate_every_s=10 if options.curve else None,
            )
    finally:
        stop()
    if options.curve:
        result.plot(over="version").savefig(options.curve, dpi=80)
    print(*result.breakdown.lines(), sep="\n")
    taus = np.repeat(list(result.staleness), list(result.staleness.values()))
    traffic = {
        "updates": result.applied,
        "staleness_mean": round(float(taus.mean()), 2),
        "staleness_p99": float(np.percentile(taus, 99)),
        "bytes_per_word_up": round(result.bytes_received / result.examples, 1),
        "bytes_per_word_down": round(result.bytes_published / result.examples, 1),
    }
    return figures(result.seconds, result.examples, {**traffic, **judged(model, held_out)})


SYSTEMS = {"gensim": with_gensim, "mllib": with_mllib, "zmqdist": with_zmqdist}


def judged(model, held_out):
    return {**scores(model.wv), "heldout_loss": round(heldout_loss(model, held_out), 4)}


def an_eighth(model):
    """Return the analogies' share of right answers, from an eighth of the questions."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as questions:
        with open(datapath("questions-words.txt")) as lines:
            for number, line in enumerate(lines):
                if number % 8 == 0 or line.startswith(":"):
                    questions.write(line)
        questions.flush()
        right, _ = model.wv.evaluate_word_analogies(questions.name, restrict_vocab=30_000)
    return {"analogies": float(right)}


def count(options, partitions):
    return options.epochs * sum(len(line) for part in partitions for line in part)


def figures(seconds, words, others):
    rate = {"words_per_s": round(words / seconds)}
    return {"seconds": round(seconds, 1), "words": words, **rate, **others}


def distributed(options, partitions):
    """Return the data, the worker count for a list, and what ends the session."""
    if options.engine == "local":
        return partitions, options.workers, lambda: None
    spark = session(options.workers)
    rdd = spark.sparkContext.parallelize(list(enumerate(partitions)), len(partitions))
    sentences = rdd.flatMap(lambda pair: pair[1]).persist()
    sentences.count()
    return sentences, None, spark.stop


# ---- for people ---------------------------------------------------------------------------------


def show(result, runs):
    names = ["analogy", "wordsim", "heldout_loss", "max_row_norm", "seconds", "words_per_s"]
    print(f"\n{'':<9}" + "".join(f"{name:>14}" for name in names))
    for system in runs[0]:
        print(f"{system:<9}" + "".join(f"{result[system].get(name, ''):>14}" for name in names))
        if len(runs) > 1:
            values = [[run[system].get(name, 0) for run in runs] for name in names]
            print(f"{'':<9}" + "".join(f"{f'{min(v):g}-{max(v):g}':>14}" for v in values))
    if "zmqdist" in result:
        ours = result["zmqdist"]
        print(
            f"bytes per word: {ours['bytes_per_word_up']} up, {ours['bytes_per_word_down']} down; "
            f"staleness mean {ours['staleness_mean']}, p99 {ours['staleness_p99']}"
        )
    print({name: value for name, value in result.items() if "ratio" in name})


def arguments():
    made = argparse.ArgumentParser(prog="python -m benchmarks word2vec", description=__doc__)
    add = made.add_argument
    add("--data", required=True, metavar="DIR", help="folder of text files")
    add("--workers", type=int, default=8, help="that compute at once (default: %(default)s)")
    add("--epochs", type=int, default=5, help="(default: %(default)s)")
    add("--architecture", choices=("cbow", "sg", "sg-hs", "cbow-hs"), default="cbow")
    add("--alpha", type=float, default=0.025, help="learning rate at first (default: %(default)s)")
    add("--engine", choices=("spark", "local"), default="spark", help="(default: %(default)s)")
    add("--chunk-words", type=int, help="words per exchange (default: by architecture and workers)")
    add("--max-growth", type=float, default=4.0, help="of chunks, late (default: %(default)s)")
    add("--hot-rows", type=int, default=64, help="in each exchange (default: %(default)s)")
    add("--growth", type=int, default=2, help="from tier to tier (default: %(default)s)")
    add("--all-every", type=int, help="exchanges at most (default: as the tiers have it)")
    add("--keep-bits", type=int, default=4, help="mantissa bits up (default: %(default)s)")
    add("--read-bits", type=int, default=9, help="mantissa bits down (default: %(default)s)")
    add("--cap", type=float, default=0, help="of the row trust region; 0: sums (default)")
    add("--seeds", type=int, nargs="+", default=[1], help="(default: 1)")
    add("--systems", nargs="+", choices=[*SYSTEMS], default=["gensim", "zmqdist"], help="to run")
    add("--gensim-workers", type=int, default=1, help="threads of gensim (default: %(default)s)")
    add("--mllib-partitions", type=int, default=8, help="(default: %(default)s)")
    add("--curve", metavar="FILE", help="evaluate meanwhile and draw the learning curve")
    add("--json", action="store_true", help="print one JSON object last")
    return made.parse_args()
