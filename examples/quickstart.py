"""Word2vec on Wikipedia text in Spark partitions: the main job, from text to scores.

Without --input it trains on the Wikipedia extract inside the gensim wheel (106
articles, about 450,000 words); --input takes any path of plain text that Spark reads
(hdfs://, file://, gz, bz2), one paragraph a line. Run it by ./scripts/quickstart, which
installs what it needs.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from itertools import islice

from gensim.corpora import WikiCorpus
from gensim.models import Word2Vec
from gensim.test.utils import datapath
from gensim.utils import tokenize
from pyspark.sql import SparkSession

from zmqdist import ZmqDist
from zmqdist.models.gensim import WORD_VECTORS, Embedding, build_vocab, chunk_words

WIKIPEDIA = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"


def main():
    options = arguments()
    started = time.time()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    say("starting Spark ...")
    spark = (
        SparkSession.builder.master(options.master)
        .appName("zmqdist quickstart")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .getOrCreate()
    )
    context = spark.sparkContext
    context.setLogLevel("ERROR")
    with tempfile.TemporaryDirectory() as folder:
        path = options.input or extract(folder)
        # Tokens are kept as Python lists: reading them again costs each epoch less than text.
        lines = context.textFile(path, options.partitions).filter(len)
        sentences = lines.map(lambda line: list(tokenize(line, lower=True)))
        if not options.input:
            sentences = sentences.coalesce(options.partitions)
        sentences = sentences.persist()
        say("counting words in Spark ...")
        model = new_model(options)
        build_vocab(model, sentences)
        say(
            f"{model.corpus_total_words:,} words, {len(model.wv):,} in the vocabulary, "
            f"{sentences.getNumPartitions()} partitions, {options.epochs} epochs"
        )
        trained_at = time.time()
        # Each worker trains its own copy and exchanges the rows that change most after every chunk.
        gradient = Embedding(chunk_words(model, workers=context.defaultParallelism))
        with ZmqDist(model, **WORD_VECTORS, progress="words") as dd:
            result = dd.train(sentences, gradient, epochs=options.epochs)
        seconds = time.time() - trained_at
        scores = {"zmqdist on Spark": (seconds, *evaluate(model))}
        if not options.no_compare:
            say("training plain gensim on the same text, for comparison ...")
            scores["gensim, one process"] = compare(options, sentences)
    spark.stop()
    report(model, result, scores)
    say(f"all in {time.time() - started:.0f} s")


def extract(folder):
    """Write the articles of the extract in gensim's wheel as lines of 1,000 words."""
    path = os.path.join(folder, "wikipedia.txt")
    articles = WikiCorpus(datapath(WIKIPEDIA), dictionary={}, processes=1).get_texts()
    with open(path, "w") as text:
        for article in articles:
            words = iter(article)
            while line := list(islice(words, 1000)):
                text.write(" ".join(line) + "\n")
    return path


def new_model(options):
    return Word2Vec(
        vector_size=options.dim, window=5, min_count=5, workers=1, seed=1, epochs=options.epochs
    )


def compare(options, sentences):
    corpus = sentences.collect()
    model = new_model(options)
    build_vocab(model, [corpus])
    started = time.time()
    model.train(corpus, total_examples=len(corpus), epochs=options.epochs)
    return (time.time() - started, *evaluate(model))


def evaluate(model):
    analogies, _ = model.wv.evaluate_word_analogies(datapath("questions-words.txt"))
    _, spearman, _ = model.wv.evaluate_word_pairs(datapath("wordsim353.tsv"))
    return analogies, spearman.statistic


def report(model, result, scores):
    say("\nnearest words:")
    for word in ("king", "war", "science", "music", "island"):
        if word in model.wv:
            near = ", ".join(name for name, _ in model.wv.most_similar(word, topn=6))
            say(f"  {word:<8} {near}")
    say(f"\n{'':<20} {'analogies':>10} {'WordSim-353':>12} {'training':>10}")
    for name, (seconds, analogies, wordsim) in scores.items():
        say(f"{name:<20} {analogies:>10.1%} {wordsim:>12.2f} {seconds:>8.1f} s")
    say("\n" + result.summary())


def say(text):
    print(text, flush=True)


def arguments():
    made = argparse.ArgumentParser(
        prog="quickstart",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--input", metavar="PATH", help="plain text that Spark reads (default: the extract)")
    add("--master", default="local[2]", help="Spark master (default: %(default)s)")
    add("--epochs", type=int, default=20, help="passes over the text (default: %(default)s)")
    add("--partitions", type=int, default=8, help="at least so many (default: %(default)s)")
    add("--dim", type=int, default=100, help="size of the vectors (default: %(default)s)")
    add("--no-compare", action="store_true", help="do not train plain gensim as well")
    return made.parse_args()


if __name__ == "__main__":
    main()
