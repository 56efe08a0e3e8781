"""Similarity indices by one call each, against the streaming classes and against plain formulas in NumPy."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from core.helpers import labels, unit_rows
from core.similarity.cases import NAMES, normal, related, rotation, similarity
from hypothesis import given, settings
from hypothesis import strategies as st

import itda
from itda import ITDA
from itda.core.similarity.table import CHANGES, SimilarityIndex, table
from itda.errors import ActivationError, SettingError

X, Y = related(rows=90, mean=2.0)


def centred(x: torch.Tensor) -> np.ndarray:
    return (x - x.mean(dim=0)).numpy()


def slow_cka(x: torch.Tensor, y: torch.Tensor) -> float:
    a, b = centred(x), centred(y)
    k, m = a @ a.T, b @ b.T
    return (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum())


def slow_correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Canonical correlations: the cosines of the angles between the column spaces."""
    return np.linalg.svd(np.linalg.qr(x)[0].T @ np.linalg.qr(y)[0], compute_uv=False)


def slow_svcca(x: torch.Tensor, y: torch.Tensor) -> float:
    kept = []
    for site in (centred(x), centred(y)):
        u, s, _ = np.linalg.svd(site, full_matrices=False)
        number = int(np.searchsorted(np.cumsum(s**2) / np.sum(s**2), 0.99)) + 1
        kept.append(u[:, :number] * s[:number])
    return slow_correlations(*kept).mean()


def slow_pwcca(x: torch.Tensor, y: torch.Tensor) -> float:
    found = []
    for own, other in ((centred(x), centred(y)), (centred(y), centred(x))):
        basis = np.linalg.qr(own)[0]
        left, correlations, _ = np.linalg.svd(basis.T @ np.linalg.qr(other)[0], full_matrices=False)
        weights = np.abs((basis @ left).T @ own).sum(axis=1)
        found.append(weights @ correlations / weights.sum())
    return float(np.mean(found))


def slow_procrustes(x: torch.Tensor, y: torch.Tensor) -> float:
    a, b = (site / np.linalg.norm(site) for site in (centred(x), centred(y)))
    width = max(a.shape[1], b.shape[1])
    a, b = (np.pad(site, ((0, 0), (0, width - site.shape[1]))) for site in (a, b))
    u, _, vt = np.linalg.svd(a.T @ b)
    return float(1 - np.linalg.norm(a @ (u @ vt) - b) ** 2 / 2)


def slow_regression(x: torch.Tensor, y: torch.Tensor) -> float:
    found = []
    for a, b in ((x.numpy(), y.numpy()), (y.numpy(), x.numpy())):
        inputs = np.hstack([a, np.ones((len(a), 1))])
        fit = np.linalg.lstsq(inputs[30:], b[30:], rcond=None)[0]
        left = ((b[:30] - inputs[:30] @ fit) ** 2).sum()
        found.append(1 - left / ((b[:30] - b[:30].mean(axis=0)) ** 2).sum())
    return float(np.mean(found))


SLOW = {
    "cka": slow_cka,
    "cca": lambda x, y: slow_correlations(centred(x), centred(y)).mean(),
    "svcca": slow_svcca,
    "pwcca": slow_pwcca,
    "procrustes": slow_procrustes,
    "regression": slow_regression,
}


@pytest.mark.parametrize("name", SLOW)
@settings(max_examples=10)
@given(seed=st.integers(0, 1000), widths=st.sampled_from([(6, 5), (3, 9), (4, 4)]))
def test_it_is_its_formula(name, seed, widths):
    x, y = related(rows=90, seed=seed, widths=widths, mean=1.0)
    assert getattr(itda.similarity, name)(x, y) == pytest.approx(SLOW[name](x, y), abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=5)
@given(seed=st.integers(0, 1000))
def test_it_is_what_the_streaming_class_gives(name, seed):
    x, y = related(rows=90, seed=seed, mean=1.0)
    if name == "relative_centred":  # the class was given the means of all rows there
        assert similarity(name, x, y) == pytest.approx(table()[name].function(x, y), abs=1e-12)
    else:
        assert table()[name].function(x, y) == similarity(name, x, y)


@pytest.mark.parametrize("name", NAMES)
def test_it_takes_what_activations_come_as(name):
    function, x, y = table()[name].function, X.float(), Y.float()
    wanted = function(x, y)
    assert type(wanted) is float
    assert function(x.numpy(), y) == function(x, np.asfortranarray(y.numpy())) == wanted
    assert function(x.clone().requires_grad_(), y.T.contiguous().T) == wanted
    assert function(x.bfloat16(), y.half()) == pytest.approx(wanted, abs=0.05)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X.long(), Y, "x are a Tensor of int64: give a tensor, or an array of floating-point"),
        (X, Y[None], r"y are of shape \[1, 90, 5\]: give \[rows, width\]"),
        (X, Y[:-1], "y has 89 rows, and x 90: give the same tokens at every site"),
        (X[:0], Y[:0], "x and y have no rows"),
        (X, torch.full_like(Y, float("nan")), "y has a NaN or an infinity in row 0: leave that token out"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(name, x, y, message):
    with pytest.raises(ActivationError, match=message) as error:
        table()[name].function(x, y)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["cka", "cka_unbiased", "cka_zscored", "cca", "svcca", "pwcca", "procrustes"])
def test_a_site_that_does_not_vary_is_named(name):
    with pytest.raises(ActivationError, match="y is the same at every token"):
        table()[name].function(X, torch.ones(90, 3))


def test_anchors_and_held_out_tokens_can_be_chosen():
    every = list(range(0, 90, 3))
    order = torch.tensor([*every, *(i for i in range(90) if i % 3)])
    for name, word in (("relative", "anchors"), ("relative_centred", "anchors"), ("regression", "held_out")):
        function = table()[name].function
        assert function(X, Y, **{word: every}) == pytest.approx(function(X[order], Y[order]), abs=1e-12)
        for wrong in ([0, 90], [-1, 2], list(range(90))):
            with pytest.raises(SettingError, match=f"{word} are not some of 90 rows: give row numbers from 0 to 89"):
                function(X, Y, **{word: wrong})
    with pytest.raises(SettingError, match="there are 1 anchors: give at least 2"):
        itda.similarity.relative(X, Y, anchors=[3])
    with pytest.raises(SettingError, match="there are 1 tokens held out of 90: give at least 2"):
        itda.similarity.regression(X, Y, held_out=[3])


def test_jaccard_is_of_dictionaries_or_of_their_labels():
    a = ITDA(unit_rows(4, 3), labels(6)[:4], k=1)
    b = ITDA(unit_rows(3, 5), labels(6)[3:], k=1)
    assert itda.similarity.jaccard(a, b) == itda.similarity.jaccard(a.labels, b) == 1 / 6
    assert itda.similarity.jaccard(a, a) == 1


def test_the_namespace_has_every_index_and_says_where_to_look_for_others():
    assert set(itda.similarity.table()) <= set(dir(itda.similarity))
    assert itda.similarity.INDICES is itda.similarity.table()
    assert {"cka", "svcca", "pwcca", "procrustes", "relative", "jaccard"} <= set(itda.similarity.INDICES)
    with pytest.raises(AttributeError, match=r"no attribute 'ckaa': itda\.similarity\.table\(\) lists them"):
        itda.similarity.ckaa  # noqa: B018
    assert all(each in (*CHANGES,) for index in table().values() for each in index.invariances)
    shown = repr(itda.similarity.table()).splitlines()
    assert shown[0].split() == ["index", "compares", "invariant", "to", "reference"]
    assert len(shown) == 1 + len(table())


def test_an_index_in_a_new_file_of_the_package_is_found(tmp_path):
    (tmp_path / "dot.py").write_text(
        "from itda.core.similarity.table import similarity_index\n\n\n"
        "@similarity_index('rows', 'nobody')\ndef dot(x, y) -> float:\n    return float((x * y).sum())\n"
    )
    code = (
        f"import itda.core.similarity as package; package.__path__.append({str(tmp_path)!r})\n"
        "import itda, torch; print(itda.similarity.dot(torch.ones(2), torch.ones(2)), *itda.similarity.table())"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.split()[0] == "2.0"
    assert set(shown.split()[1:]) == {*table(), "dot"}


def test_a_rotated_site_is_the_same_and_noise_is_not():
    turned = X @ rotation(6)
    assert itda.similarity.cka(X, turned) == pytest.approx(1)
    assert itda.similarity.cka(X, normal(90, 6, seed=3)) < 0.5
    assert isinstance(table()["cka"], SimilarityIndex)
