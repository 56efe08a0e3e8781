"""Shuffled corpora: every document once, in an order that the seed and the ids alone decide."""

from hypothesis import given
from hypothesis import strategies as st

from itda.sources.corpora import corpus as module
from itda.sources.corpora.corpus import Corpus


def ids(corpus):
    return [document.id for document in corpus]


@given(st.lists(st.text(min_size=1, max_size=3), max_size=30), st.integers())
def test_every_document_comes_once(texts, seed):
    corpus = Corpus.from_texts(texts)
    assert sorted(ids(corpus.shuffled(seed))) == sorted(ids(corpus))


def test_the_order_is_the_same_each_time_and_another_for_another_seed():
    corpus = Corpus.from_texts([str(i) for i in range(50)])
    first = ids(corpus.shuffled(0))
    assert ids(corpus.shuffled(0)) == first
    assert ids(corpus.shuffled(1)) != first != ids(corpus)


def test_parts_keep_their_documents_and_the_fingerprint_is_that_of_the_corpus():
    corpus = Corpus.from_texts([str(i) for i in range(200)])
    for part in ("train", "heldout"):
        assert set(ids(corpus.split(part).shuffled(3))) == set(ids(corpus.split(part)))
        assert ids(corpus.shuffled(3).split(part)) == ids(corpus.split(part).shuffled(3))
    assert corpus.shuffled(3).fingerprint == corpus.fingerprint


def test_no_more_than_so_many_documents_are_read_ahead(monkeypatch):
    monkeypatch.setattr(module, "SHUFFLED_AT_ONCE", 10)
    found = ids(Corpus.from_texts([str(i) for i in range(35)]).shuffled(0))
    for start in range(0, 35, 10):
        assert {int(name.split(":")[1]) // 10 for name in found[start : start + 10]} == {start // 10}


def test_a_document_comes_before_the_same_ones_whatever_else_there_is():
    texts = [str(i) for i in range(40)]
    few, all_of_them = ids(Corpus.from_texts(texts[:20]).shuffled(5)), ids(Corpus.from_texts(texts).shuffled(5))
    assert [name for name in all_of_them if name in few] == few
