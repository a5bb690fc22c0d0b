"""The word2vec program of DeepDist (2014), under zmqdist.

Changed from the original: the import, and the names that gensim 4 gave things
(`wv.vectors`, `syn1neg`, the arguments of `train`). Run it with text of your own:

    python examples/deepdist_program.py file:///path/to/text
"""

import os
import sys

from gensim.models.word2vec import Word2Vec
from pyspark import SparkContext

from zmqdist import DeepDist


def gradient(model, sentences):  # executes on workers
    vectors, syn1neg = model.wv.vectors.copy(), model.syn1neg.copy()
    model.train(sentences, total_examples=model.corpus_count, epochs=1)
    return {"vectors": model.wv.vectors - vectors, "syn1neg": model.syn1neg - syn1neg}


def descent(model, update):  # executes on master
    model.wv.vectors += update["vectors"]
    model.syn1neg += update["syn1neg"]


if __name__ == "__main__":
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    sc = SparkContext(master="local[2]")
    corpus = sc.textFile(sys.argv[1]).map(lambda line: line.split())
    with DeepDist(Word2Vec(corpus.collect())) as dd:
        dd.train(corpus, gradient, descent)
        print(dd.model.wv.most_similar(dd.model.wv.index_to_key[100]))
