"""What the benchmarks of gensim's other models share: the text, and both ways to train."""

import glob
import gzip
import itertools
import os
import sys

from zmqdist import ZmqDist
from zmqdist.models.gensim import WORD_VECTORS, Embedding, build_vocab, chunk_words


def arguments(add):
    add("--data", required=True, metavar="DIR", help="folder of text files, a paragraph a line")
    add("--files", type=int, default=4, help="of these files, the first (default: %(default)s)")
    add("--workers", type=int, default=8, help="processes (default: %(default)s)")
    add("--epochs", type=int, default=5, help="(default: %(default)s)")
    add("--seeds", type=int, default=1, help="runs of each, from other seeds (default: 1)")


def paragraphs(options):
    """Yield the words of each paragraph."""
    paths = sorted(glob.glob(os.path.join(options.data, "*.txt*")))[: options.files]
    if not paths:
        sys.exit(f"no *.txt or *.txt.gz in {options.data}")
    for path in paths:
        with gzip.open(path, "rt") if path.endswith(".gz") else open(path) as lines:
            yield from (line.split() for line in lines)


def cut(lines, pieces):
    """Return so many parts of about the same length, of neighbouring lines each."""
    ends = [len(lines) * piece // pieces for piece in range(pieces + 1)]
    return [lines[a:b] for a, b in itertools.pairwise(ends)]


def trained_by_gensim(model, text):
    model.build_vocab(text)
    model.train(text, total_examples=model.corpus_count, epochs=model.epochs)
    model.wv.norms = None
    return model


def trained_by_zmqdist(model, text, options):
    """Train in as many processes, a part of the text in each: what belongs together, together."""
    parts = cut(text, options.workers)
    build_vocab(model, parts)
    gradient = Embedding(chunk_words(model, options.workers))
    with ZmqDist(model, **WORD_VECTORS) as dd:
        result = dd.train(parts, gradient, epochs=model.epochs, workers=options.workers)
    print(
        f"  {result.examples:,} words in {result.seconds:.0f} s, staleness mean "
        f"{result.staleness_mean:.1f}, longest row {result.max_row_norm:.1f}, "
        f"{result.bytes_received / result.examples:.0f} bytes up and "
        f"{result.bytes_published / result.examples:.0f} down for each word",
        flush=True,
    )
    return model
