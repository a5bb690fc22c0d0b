"""Word vectors from many asynchronous workers against gensim on the same text.

The text is a folder of ``*.txt`` or ``*.txt.gz`` files of plain words, one paragraph a
line; each file is a partition. The last paragraphs are held out from both.
"""

import argparse
import glob
import gzip
import json
import os
import sys
import time

import numpy as np
from gensim.models import Word2Vec

from benchmarks._embeddings import scores

HELD_OUT = 500
"""Paragraphs at the end of the last file that nobody trains on."""


def main():
    options = arguments()
    partitions, held_out = read(options.data)
    words = sum(len(line) for part in partitions for line in part)
    print(f"{words:,} words in {len(partitions)} partitions, {options.epochs} epochs", flush=True)
    result = {"name": "word2vec", "options": vars(options)}
    if not options.no_gensim:
        result["gensim"] = with_gensim(options, partitions, held_out)
        print("gensim", result["gensim"], flush=True)
    result["zmqdist"] = with_zmqdist(options, partitions, held_out)
    if "gensim" in result:
        for figure in ("analogy", "wordsim"):
            ratio = result["zmqdist"][figure] / result["gensim"][figure]
            result[f"{figure}_ratio"] = round(ratio, 4)
    show(result)
    if options.json:
        print(json.dumps(result))


def read(folder):
    """Return the partitions (lists of lists of words) and the held-out paragraphs."""
    paths = sorted(glob.glob(os.path.join(folder, "*.txt*")))
    if not paths:
        sys.exit(f"no *.txt or *.txt.gz in {folder}")
    partitions = []
    for path in paths:
        with gzip.open(path, "rt") if path.endswith(".gz") else open(path) as lines:
            partitions.append([line.split() for line in lines])
    held_out, partitions[-1] = partitions[-1][-HELD_OUT:], partitions[-1][:-HELD_OUT]
    return partitions, held_out


def new_model(options):
    return Word2Vec(
        vector_size=100,
        window=5,
        min_count=5,
        workers=1,
        epochs=options.epochs,
        seed=options.seed,
        sg=int(options.architecture.startswith("sg")),
        hs=int(options.architecture.endswith("-hs")),
        negative=0 if options.architecture.endswith("-hs") else 5,
    )


def with_gensim(options, partitions, held_out):
    corpus = [line for part in partitions for line in part]
    model = new_model(options)
    model.build_vocab(corpus)
    started = time.time()
    model.train(corpus, total_examples=len(corpus), epochs=options.epochs)
    seconds = time.time() - started
    words = sum(len(line) for line in corpus) * options.epochs
    return {"seconds": round(seconds, 1), "words": words, **scores(model, held_out)}


def with_zmqdist(options, partitions, held_out):
    from zmqdist import ZmqDist
    from zmqdist.merge import RowTrustRegion
    from zmqdist.models.gensim_training import Embedding, build_vocab
    from zmqdist.models.tiers import Tiers
    from zmqdist.staleness import Asynchronous

    gradient = Embedding(
        chunk_words=options.chunk_words,
        tiers=Tiers(
            hot_rows=options.hot_rows,
            growth=options.growth,
            all_every=options.all_every,
            keep_bits=options.keep_bits,
            read_bits=options.read_bits,
        ),
    )
    model = new_model(options)
    data, workers, stop = spark_data(options, partitions)
    build_vocab(model, data)
    merge = RowTrustRegion(options.cap) if options.cap else None
    try:
        with ZmqDist(model, staleness=Asynchronous(), merge=merge, progress="words") as dd:
            result = dd.train(data, gradient, epochs=options.epochs, workers=workers)
    finally:
        stop()
    taus = np.repeat(list(result.staleness), list(result.staleness.values()))
    return {
        "seconds": round(result.seconds, 1),
        "words": result.examples,
        "updates": result.applied,
        "staleness_mean": round(float(taus.mean()), 2),
        "staleness_p99": float(np.percentile(taus, 99)),
        "bytes_per_word_up": round(result.bytes_received / result.examples, 1),
        "bytes_per_word_down": round(result.bytes_published / result.examples, 1),
        **scores(model, held_out),
    }


def spark_data(options, partitions):
    """Return the data, the worker count for a list, and what ends the session."""
    if options.engine == "local":
        return partitions, options.workers, lambda: None
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    from pyspark.sql import SparkSession

    spark = (
        SparkSession.builder.master(f"local[{options.workers}]")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.memory", "4g")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    rdd = spark.sparkContext.parallelize(list(enumerate(partitions)), len(partitions))
    return rdd.flatMap(lambda pair: pair[1]).persist(), None, spark.stop


def show(result):
    figures = ["analogy", "wordsim", "heldout_loss", "max_row_norm", "seconds"]
    print(f"\n{'':<9}" + "".join(f"{name:>14}" for name in figures))
    for system in ("gensim", "zmqdist"):
        if system in result:
            print(f"{system:<9}" + "".join(f"{result[system][name]:>14}" for name in figures))
    ours = result["zmqdist"]
    print(
        f"bytes per word: {ours['bytes_per_word_up']} up, {ours['bytes_per_word_down']} down; "
        f"staleness mean {ours['staleness_mean']}, p99 {ours['staleness_p99']}"
    )


def arguments():
    made = argparse.ArgumentParser(prog="python -m benchmarks word2vec", description=__doc__)
    add = made.add_argument
    add("--data", required=True, metavar="DIR", help="folder of text files")
    add("--workers", type=int, default=8, help="that compute at once (default: %(default)s)")
    add("--epochs", type=int, default=5, help="(default: %(default)s)")
    add("--architecture", choices=("cbow", "sg", "sg-hs", "cbow-hs"), default="cbow")
    add("--engine", choices=("spark", "local"), default="spark", help="(default: %(default)s)")
    add("--chunk-words", type=int, default=1000, help="words per exchange (default: %(default)s)")
    add("--hot-rows", type=int, default=64, help="in each exchange (default: %(default)s)")
    add("--growth", type=int, default=2, help="from tier to tier (default: %(default)s)")
    add("--all-every", type=int, help="exchanges at most (default: as the tiers have it)")
    add("--keep-bits", type=int, default=4, help="mantissa bits up (default: %(default)s)")
    add("--read-bits", type=int, default=7, help="mantissa bits down (default: %(default)s)")
    add("--cap", type=float, default=8.0, help="of the row trust region; 0: plain sum")
    add("--seed", type=int, default=1)
    add("--no-gensim", action="store_true", help="leave the yardstick out")
    add("--json", action="store_true", help="print one JSON object last")
    return made.parse_args()
