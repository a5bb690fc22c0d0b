"""The AdaGrad word2vec program of DeepDist (2014), in today's form.

A worker trains on about 1,000 words and yields what changed over -alpha: a gradient.
The master descends on it with AdaGrad: frequent words soon take small steps, rare words
keep large ones. Run it with text of your own, one sentence or paragraph a line:

    python examples/adagrad_word2vec.py file:///path/to/text
"""

import os
import sys

from gensim.models import Word2Vec

from zmqdist import Update, ZmqDist, delta
from zmqdist.optim import AdaGrad

WEIGHTS = ("wv.vectors", "syn1neg")
CHUNK_WORDS = 1_000
adagrad = AdaGrad(lr=0.1, eps=1e-6)


def alpha(model):  # falls as the words of all workers go by
    return max(model.min_alpha, model.alpha * (1 - model.words_done / model.words_total))


def gradient(model, sentences):  # executes on workers
    for chunk, words in chunks(sentences):
        rate = alpha(model)
        with delta(model) as change:
            model.train(
                chunk, total_examples=len(chunk), epochs=1, start_alpha=rate, end_alpha=rate
            )
        gradients = {name: change[name] / -rate for name in WEIGHTS if name in change}
        yield Update({"gradients": gradients, "words": words}, examples=words)


def descent(model, update):  # executes on master
    model.words_done += update["words"]
    adagrad.lr = alpha(model)
    adagrad(model, update["gradients"])


def chunks(sentences):
    chunk, words = [], 0
    for sentence in sentences:
        chunk.append(sentence)
        words += len(sentence)
        if words >= CHUNK_WORDS:
            yield chunk, words
            chunk, words = [], 0
    if chunk:
        yield chunk, words


def new_model(counts, epochs=5):
    model = Word2Vec(vector_size=100, alpha=0.1, min_count=5, workers=1, seed=1)
    model.build_vocab_from_freq(counts)
    model.words_done, model.words_total = 0, epochs * sum(counts.values())
    return model


def main(path, epochs=5):
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    spark = SparkSession.builder.master("local[2]").getOrCreate()
    corpus = spark.sparkContext.textFile(path, 8).map(str.split).filter(len).cache()
    counts = corpus.flatMap(lambda words: words).countByValue()
    model = new_model(dict(sorted(counts.items())), epochs)
    with ZmqDist(model) as dd:
        print(dd.train(corpus, gradient, descent, epochs=epochs).summary())
    for word in model.wv.index_to_key[100:105]:
        print(word, [name for name, _ in model.wv.most_similar(word, topn=5)])
    spark.stop()


if __name__ == "__main__":
    main(sys.argv[1])
