"""FastText from asynchronous workers: what its n-grams are for.

Morphological analogies (the sections "gram..." of questions-words.txt: good is to better as
long to longer) among the 30,000 most frequent words, and WordSim-353 with the words that the
vocabulary lacks, whose vectors are made of their n-grams. Each fifth word of WordSim-353 is
left out of the text, so that there are some.

Skip-gram with 5 negative samples (Bojanowski et al. 2017, "Enriching word vectors with
subword information"), against gensim in one process on the same text.
"""

from gensim.models import FastText
from gensim.test.utils import datapath

from benchmarks._gensim import arguments, paragraphs, trained_by_gensim, trained_by_zmqdist
from benchmarks._harness import Case

__all__ = ["arguments", "cases"]

BUCKETS = 200_000
"""Of n-grams: as many as a small text fills."""


def cases(options):
    run = Run(options)
    for figure in ("morphological analogies", "WordSim-353"):
        yield Case(
            f"{options.workers} workers, {figure}",
            lambda figure=figure: run.ours(figure),
            lambda figure=figure: run.limit(figure),
            "% right" if figure[0] == "m" else "rho",
            "ratio >= 0.9",
            options.seeds,
        )


class Run:
    """Trains once for each seed and system; both figures come from the same models."""

    def __init__(self, options):
        self.options = options
        self.text = list(paragraphs(options))
        unheard = set(similar_words()[::5])
        self.text = [[word for word in words if word not in unheard] for words in self.text]
        self.done = {}
        self.asked = {}

    def ours(self, figure):
        return self.figures("zmqdist", figure)

    def limit(self, figure):
        return self.figures("gensim", figure)

    def figures(self, system, figure):
        seed = self.asked[system, figure] = self.asked.get((system, figure), 0) + 1
        if (system, seed) not in self.done:
            model = FastText(
                vector_size=100,
                sg=1,
                min_count=5,
                epochs=self.options.epochs,
                bucket=BUCKETS,
                workers=1,
                seed=seed,
            )
            if system == "gensim":
                trained_by_gensim(model, self.text)
            else:
                trained_by_zmqdist(model, self.text, self.options)
            self.done[system, seed] = judged(model)
        return self.done[system, seed][figure]


def judged(model):
    _, sections = model.wv.evaluate_word_analogies(
        datapath("questions-words.txt"), restrict_vocab=30_000
    )
    grammar = [s for s in sections if s["section"].startswith("gram")]
    right, wrong = (sum(len(s[kind]) for s in grammar) for kind in ("correct", "incorrect"))
    _, spearman, _ = model.wv.evaluate_word_pairs(datapath("wordsim353.tsv"))
    return {
        "morphological analogies": 100 * right / (right + wrong),
        "WordSim-353": float(spearman.statistic),
    }


def similar_words():
    """Return the words of WordSim-353."""
    with open(datapath("wordsim353.tsv")) as lines:
        pairs = [line.lower().split("\t")[:2] for line in lines if not line.startswith("#")]
    return sorted({word for pair in pairs for word in pair})
