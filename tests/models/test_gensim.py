"""Word2Vec, Doc2Vec and FastText: the weights, the counts and the caches."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from gensim.models import Doc2Vec, FastText, LdaModel, Word2Vec
from gensim.models.doc2vec import TaggedDocument

from zmqdist.errors import ModelError
from zmqdist.models import parameters_of
from zmqdist.models.delta import add, delta
from zmqdist.models.structure import dump_structure, load_structure

TEXT = [[f"w{(n * m) % 23}" for n in range(12)] for m in range(1, 30)]
DOCUMENTS = [TaggedDocument(words, [n]) for n, words in enumerate(TEXT)]
SMALL = {"vector_size": 8, "min_count": 1, "workers": 1, "seed": 1}


def word2vec(**options: Any) -> Any:
    model = Word2Vec(**{**SMALL, **options})
    model.build_vocab(TEXT)
    return model


def doc2vec() -> Any:
    model = Doc2Vec(**SMALL)
    model.build_vocab(DOCUMENTS)
    return model


def fasttext(**options: Any) -> Any:
    model = FastText(**{**SMALL, "bucket": 50, **options})
    model.build_vocab(TEXT)
    return model


def train(model: Any) -> None:
    data = DOCUMENTS if isinstance(model, Doc2Vec) else TEXT
    model.train(data, total_examples=len(data), epochs=2)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (word2vec(), ["wv.vectors", "syn1neg"]),
        (word2vec(hs=1, negative=0), ["wv.vectors", "syn1"]),
        (word2vec(hs=1), ["wv.vectors", "syn1", "syn1neg"]),
        (doc2vec(), ["wv.vectors", "dv.vectors", "syn1neg"]),
        (fasttext(), ["wv.vectors_vocab", "wv.vectors_ngrams", "syn1neg"]),
        (fasttext(bucket=0), ["wv.vectors_vocab", "syn1neg"]),
    ],
)
def test_only_the_weights_travel(model: Any, names: list[str]) -> None:
    model.ssyn0 = np.zeros_like(model.wv.vectors)  # AdaGrad state of a descent
    assert list(parameters_of(model).arrays()) == names


def test_a_subclass_is_recognised() -> None:
    class Mine(Word2Vec):  # type: ignore[misc]
        pass

    model = Mine(**SMALL)
    model.build_vocab(TEXT)
    assert list(parameters_of(model).arrays()) == ["wv.vectors", "syn1neg"]


def test_other_gensim_models_go_to_the_generic_adapter() -> None:
    model = LdaModel(num_topics=2, id2word={0: "a", 1: "b"}, random_state=0)
    assert "state.sstats" in parameters_of(model).arrays()


def test_no_vocabulary() -> None:
    with pytest.raises(ModelError, match=r"call model\.build_vocab"):
        parameters_of(Word2Vec(**SMALL))


@pytest.mark.parametrize("make", [word2vec, doc2vec, fasttext])
def test_training_a_copy_and_adding_its_delta_trains_the_original(make: Any) -> None:
    original = make()
    original.word_count = 5
    clone = copy.deepcopy(original)
    with delta(clone) as update:
        train(clone)
        clone.word_count += 7
        clone.alpha = 0.01  # a setting: goes down with the model, never up as a difference
    assert {"word_count", "train_count"} <= set(update)
    assert not {"alpha", "min_alpha_yet_reached", "running_training_loss"} & set(update)
    add(original, update)
    parameters_of(original).loaded()
    assert (original.word_count, original.train_count) == (12, 1)
    for name, array in parameters_of(clone).arrays().items():
        np.testing.assert_allclose(parameters_of(original).arrays()[name], array, atol=1e-6)
    np.testing.assert_allclose(original.wv.vectors, clone.wv.vectors, atol=1e-6)


@pytest.mark.parametrize("make", [word2vec, doc2vec, fasttext])
def test_structure_and_load_make_the_same_model(make: Any) -> None:
    master = make()
    train(master)
    master.word_count = 3
    parameters = parameters_of(master)
    (worker,) = load_structure(dump_structure(master, parameters))
    replica = parameters_of(worker)
    replica.check(parameters.schema())
    replica.load(parameters.arrays(), parameters.scalars())
    assert worker.word_count == 3
    np.testing.assert_allclose(worker.wv.vectors, master.wv.vectors, atol=1e-7)
    assert worker.wv.most_similar("w1")[0][0] == master.wv.most_similar("w1")[0][0]
    train(worker)  # still a whole gensim model


def test_load_drops_cached_norms() -> None:
    model = doc2vec()
    parameters = parameters_of(model)
    model.wv.fill_norms()
    model.dv.fill_norms()
    parameters.load({"wv.vectors": np.ones_like(model.wv.vectors)}, {})
    assert model.wv.norms is None
    assert model.dv.norms is None
    assert model.wv.get_vector("w1", norm=True)[0] == pytest.approx(8**-0.5)


def test_fasttext_words_are_composed_as_gensim_does_it() -> None:
    model = fasttext()
    train(model)
    parameters = parameters_of(model)
    values = {name: array + 1 for name, array in parameters.arrays().items()}
    parameters.load(values, {})
    composed = model.wv.vectors.copy()
    model.wv.adjust_vectors()
    np.testing.assert_allclose(composed, model.wv.vectors, rtol=1e-6)


def test_fasttext_leaves_without_what_can_be_computed() -> None:
    model = fasttext(vector_size=1000)
    assert len(dump_structure(model, parameters_of(model))) < model.wv.vectors.nbytes
