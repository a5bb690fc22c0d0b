"""Word vectors as a problem for `zmqdist-tune`: gensim's Word2Vec, trained in place.

The loss is that of negative sampling on paragraphs nobody trains on. `word2vec.toml` is the
study; the text is a folder of *.txt or *.txt.gz files, one paragraph of plain words a line,
or the small corpus in gensim's wheel if there is no folder.
"""

from __future__ import annotations

import functools
import glob
import gzip
import itertools
import os

import numpy as np
from gensim.models import Word2Vec
from gensim.test.utils import datapath

from zmqdist.models.gensim_training import Embedding, build_vocab
from zmqdist.tuning.catalogue import Task
from zmqdist.tuning.problems import Problem


def problem(data="", epochs=5, dimensions=100, held_out=500, partitions=32, files=None):
    """Return the problem; the text is read when it is first needed.

    Of a folder the first `files` files are taken (default: all).
    """

    @functools.cache
    def text():
        return read(data, held_out, partitions, files)

    @functools.cache
    def vocabulary():
        model = Word2Vec(vector_size=dimensions, min_count=5, epochs=epochs, seed=1, workers=1)
        build_vocab(model, text()[0])
        return model

    def task(setting):
        model = Word2Vec(vector_size=dimensions, min_count=5, epochs=epochs, seed=1, workers=1)
        model.alpha = setting.lr
        build_vocab(model, text()[0])
        order = np.random.default_rng(setting.seed).permutation(len(text()[0]))
        gradient = Embedding(chunk_words=setting.chunk)
        parts = [text()[0][index] for index in order]
        return Task(model, parts, gradient, epochs=epochs, tiers=gradient.tiers)

    def evaluate(model):
        return {"loss": held_out_loss(model, text()[1])}

    return Problem(model=vocabulary, data=None, gradient=None, evaluate=evaluate, task=task)


def read(folder, held_out, partitions, files=None):
    """Return the partitions (lists of lists of words) and the paragraphs held out."""
    if not folder:
        whole = lines(datapath("lee_background.cor"))
        kept = whole[held_out:]
        return [kept[i::partitions] for i in range(partitions)], whole[:held_out]
    paths = sorted(glob.glob(os.path.join(os.path.expandvars(folder), "*.txt*")))
    if not paths:
        raise FileNotFoundError(f"no *.txt or *.txt.gz in {os.path.expandvars(folder)}")
    whole = [paragraph for path in paths[:files] for paragraph in lines(path)]
    kept = whole[:-held_out]
    cuts = [len(kept) * i // partitions for i in range(partitions + 1)]
    return [kept[a:b] for a, b in itertools.pairwise(cuts)], whole[-held_out:]


def lines(path):
    with gzip.open(path, "rt") if path.endswith(".gz") else open(path) as stream:
        return [line.lower().split() for line in stream]


def held_out_loss(model, paragraphs, positions=5_000, seed=0):
    """Return the mean loss of CBOW with five negative samples, at the same places each time.

    Mikolov et al. 2013, "Distributed representations of words and phrases and their
    compositionality", equation 4.
    """
    rng = np.random.default_rng(seed)
    counts = np.array([model.wv.get_vecattr(w, "count") for w in model.wv.index_to_key], float)
    unigram = counts**0.75 / (counts**0.75).sum()
    negatives = rng.choice(len(unigram), (positions, 5), p=unigram)
    vectors, outputs, window = model.wv.vectors, model.syn1neg, model.window
    losses = []
    for paragraph in paragraphs:
        words = np.array([model.wv.key_to_index[w] for w in paragraph if w in model.wv], int)
        for at in range(len(words)):
            around = np.concatenate(
                [words[max(0, at - window) : at], words[at + 1 : at + 1 + window]]
            )
            if not len(around):
                continue
            hidden = vectors[around].mean(axis=0)
            right, wrong = outputs[words[at]] @ hidden, outputs[negatives[len(losses)]] @ hidden
            losses.append(np.logaddexp(0, -right) + np.logaddexp(0, wrong).sum())
            if len(losses) == positions:
                return float(np.mean(losses))
    return float(np.mean(losses))
