"""What word vectors are judged by: analogies, WordSim-353, held-out loss, norms."""

import numpy as np
from gensim.test.utils import datapath


def scores(vectors, vocabulary=30_000):
    """Return the figures of word vectors as a dict.

    `analogy` is the share of right answers to gensim's questions-words.txt among the
    `vocabulary` most frequent words, `wordsim` Spearman's rho on WordSim-353,
    `max_row_norm` the largest norm of a vector.
    """
    vectors.norms = None
    analogy, _ = vectors.evaluate_word_analogies(
        datapath("questions-words.txt"), restrict_vocab=vocabulary
    )
    _, spearman, _ = vectors.evaluate_word_pairs(datapath("wordsim353.tsv"))
    return {
        "analogy": round(float(analogy), 5),
        "wordsim": round(float(spearman.statistic), 4),
        "max_row_norm": round(float(np.linalg.norm(vectors.vectors, axis=1).max()), 3),
    }


def heldout_loss(model, sentences, positions=20_000, seed=0):
    """Return the mean loss per prediction on text not trained on.

    For each position, CBOW's mean of the context predicts the word, or the word predicts
    each context word (skip-gram): against five words drawn from the unigram distribution to
    the power 3/4 (Mikolov et al. 2013, "Distributed representations of words and phrases
    and their compositionality", equation 4), or along the word's path in the Huffman tree
    (equation 3). The same positions and draws for every model.
    """
    rng = np.random.default_rng(seed)
    counts = np.array([model.wv.get_vecattr(w, "count") for w in model.wv.index_to_key], float)
    unigram = counts**0.75 / (counts**0.75).sum()
    window, losses, left = model.window, [], positions
    negatives = iter(rng.choice(len(unigram), (positions, 5), p=unigram))
    for sentence in sentences:
        words = np.array([model.wv.key_to_index[w] for w in sentence if w in model.wv])
        for at in range(len(words)):
            before, after = words[max(0, at - window) : at], words[at + 1 : at + 1 + window]
            context = np.concatenate([before, after])
            if not len(context):
                continue
            loss = _path_loss if model.hs else _loss
            losses.append(loss(model, words[at], context, next(negatives)))
            left -= 1
            if not left:
                return float(np.mean(losses))
    return float(np.mean(losses))


def _path_loss(model, word, context, _):
    vectors = model.wv.vectors
    if model.sg:
        pairs = [(vectors[word], target) for target in context]
    else:
        pairs = [(vectors[context].mean(axis=0), word)]
    points, codes = (model.wv.expandos[name] for name in ("point", "code"))
    losses = [
        np.logaddexp(0, (2.0 * codes[target] - 1) * (model.syn1[points[target]] @ hidden)).sum()
        for hidden, target in pairs
    ]
    return np.mean(losses)


def _loss(model, word, context, negative):
    vectors, outputs = model.wv.vectors, model.syn1neg
    if model.sg:
        hidden, right = vectors[word], outputs[context]
    else:
        hidden, right = vectors[context].mean(axis=0), outputs[[word]]
    positive = np.logaddexp(0, -right @ hidden).mean()
    return positive + np.logaddexp(0, outputs[negative] @ hidden).sum()
