"""k-sparse probing: how well a few latents of a readout tell the members of a class from the rest.

Latents are chosen and a logistic regression on them is fitted on some documents; it is tested on the others. A
readout may be neurons, codes or similarities, one row per token or text: a dense array, or a scipy CSR matrix.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from itda.core.bootstrap import Interval, by_document, interval
from itda.core.code import SparseCode
from itda.errors import ActivationError, ItdaError, SettingError

Selection = Literal["stepwise", "standardised", "mean"]
"""Ways to choose the latents of a probe: see `probe`."""

LATENT_COUNTS = (1, 2, 5, 20, None)
"""Latents that probes read, by default; None for all."""
TEST_SHARE = 0.25
"""Share of the documents that probes are tested on."""
POOL = 256
"""Number of latents, the best by themselves, that stepwise selection chooses among."""
WIDEST = 512
"""Principal directions, at most, that a probe of all latents reads of a dense readout with more latents than this."""
SOFT = 1e-3
"""Inverse penalty of probes of all latents: of 1, 0.1, 0.01 and 0.001 the best for 8192 latents on 40,000 tokens."""
ROWS = 4096
"""Rows of a dense readout that are gone through at once."""


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """The probes of one readout that read the same number of latents, one probe for each class."""

    size: int | None
    """Number of latents that a probe reads; None for all."""
    latents: Int[np.ndarray, "classes size"] | None
    """The latents chosen for each class, best first; None if all are read."""
    accuracy: Interval
    """Balanced accuracy of each class on the test documents."""
    mean: Interval
    """The mean of the classes' accuracies."""
    sums: Float[np.ndarray, "documents counts"]
    """Counts per test document, from which `balanced_accuracy` is computed.

    `interval` of two readouts' sums side by side gives an interval of their difference.
    """


def probe(
    features: Any,
    classes: Bool[np.ndarray, "rows classes"],
    groups: Shaped[np.ndarray, " rows"],
    *,
    latent_counts: Sequence[int | None] = LATENT_COUNTS,
    selection: Selection = "stepwise",
    test: Bool[np.ndarray, " rows"] | None = None,
) -> list[ProbeResult]:
    """Probe the readout `features` [rows, latents] for each class, one result for each of `latent_counts`.

    `features` is a tensor, an array, a CSR matrix or a pair (code, atoms). `groups` is each row's document: one in four
    is kept for the test, by a hash of its id, or else the rows of the mask `test` are. `selection` is "mean", by the
    difference of class means, as SAEBench has it; "standardised", by that in standard deviations; or "stepwise", each
    time the latent that explains most of what those before it leave: no second copy of a latent gets in. Members and
    others weigh the same, in fits too. Raises `SettingError` if either side of the split lacks members or others,
    `ActivationError` for features that are not numbers, and `ItdaError` without scikit-learn.

    >>> x = np.eye(4)[np.arange(80) % 4]
    >>> [result] = probe(x, x[:, 2:3] > 0, np.arange(80) // 8, latent_counts=[1])
    >>> result.latents.tolist(), result.accuracy.value.tolist()
    ([[2]], [1.0])
    """
    _sklearn()
    x = _matrix(features)
    latents = x.shape[1]
    if not x.shape[0] == len(classes) == len(groups):
        rows = (x.shape[0], len(classes), len(groups))
        raise SettingError(f"features, classes and groups have {rows} rows: give one row per token or text in each")
    if any(count is not None and not 1 <= count <= latents for count in latent_counts):
        raise SettingError(
            f"latent_counts are {tuple(latent_counts)}: each must be from 1 to {latents}, the latents, or None for all"
        )
    fit, judge = _split(classes, held_out(groups) if test is None else test)
    train, y, judged = x[fit], classes[fit], x[judge]
    ranked = select(train, y, max((count or 0 for count in latent_counts), default=0), selection)
    results = []
    for size in latent_counts:
        if size is None:
            said, chosen = _whole(train, y, judged), None
        else:
            chosen = ranked[:, :size]
            pairs = zip(chosen, y.T, strict=True)
            said = np.stack([_fit(_columns(train, row), c, _columns(judged, row)) for row, c in pairs], axis=1)
        results.append(_result(size, chosen, classes[judge], said, groups[judge]))
    return results


def _split(classes: Bool[np.ndarray, "rows classes"], held: Bool[np.ndarray, " rows"]) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to fit on and those to test on. Raises `SettingError` if either lacks members or others."""
    fit, judge = np.flatnonzero(~held), np.flatnonzero(held)
    for rows, side in ((fit, "training"), (judge, "test")):
        members = classes[rows].sum(axis=0)
        for c in np.flatnonzero((members == 0) | (members == len(rows))):
            raise SettingError(
                f"class {c} has {members[c]} members in {len(rows)} {side} rows: leave it out, or choose test="
            )
    return fit, judge


def held_out(groups: Shaped[np.ndarray, " rows"], share: float = TEST_SHARE) -> Bool[np.ndarray, " rows"]:
    """Return which rows are held out: those of the documents whose ids hash lowest, at least one and not all."""
    names, rows = np.unique(groups.astype(str), return_inverse=True)
    order = sorted(range(len(names)), key=lambda i: hashlib.sha256(names[i].encode()).digest())
    count = min(max(1, round(share * len(names))), len(names) - 1)
    return np.isin(rows, order[: max(0, count)])


def balanced_accuracy(sums: Float[np.ndarray, "*batch counts"]) -> Float[np.ndarray, "*batch classes"]:
    """Return the mean of the shares of members and of others that a probe got right, from summed `ProbeResult.sums`."""
    right_in, members, right_out, others = np.moveaxis(sums.reshape(*sums.shape[:-1], 4, -1), -2, 0)
    with np.errstate(invalid="ignore"):
        return (right_in / members + right_out / others) / 2


def sparse_features(code: SparseCode, atoms: int) -> Any:
    """Return a code as a scipy CSR matrix [rows, atoms], without padding."""
    from scipy.sparse import csr_matrix

    filled = np.arange(code.k) < code.count.cpu().numpy()[:, None]
    ends = np.concatenate([[0], np.cumsum(code.count.cpu().numpy())])
    entries = code.coefficients.detach().float().cpu().numpy()[filled], code.indices.cpu().numpy()[filled], ends
    return csr_matrix(entries, shape=(len(filled), atoms))


def pooled(features: Any, windows: Shaped[np.ndarray, " rows"]) -> tuple[Any, Int[np.ndarray, " texts"]]:
    """Return the mean of the features over the tokens of each text, and the row of each text's first token.

    Texts are in the order of their first tokens: `classes[first]` and `groups[first]` are theirs.
    """
    from scipy.sparse import csr_matrix

    x = _matrix(features)
    _, first, text, size = np.unique(windows, return_index=True, return_inverse=True, return_counts=True)
    order = np.argsort(first)
    place = np.argsort(order)[text]
    share = csr_matrix((1 / size[text], (place, np.arange(len(text)))), shape=(len(first), len(text)))
    return share @ x, first[order]


def select(x: Any, classes: Bool[np.ndarray, "rows classes"], most: int, selection: Selection) -> np.ndarray:
    """Choose the latents to probe each class with: [classes, most], best first; of equal ones, the lowest."""
    if selection not in get_args(Selection):
        raise SettingError(f"no selection {selection!r}: choose one of {', '.join(get_args(Selection))}")
    gap, variance = _moments(x, classes)
    # Against the variance of both kinds of rows together: it ranks as a t statistic does, and is finite where that
    # within the kinds is 0.
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = np.nan_to_num(np.abs(gap) / np.sqrt(variance))
    score = np.abs(gap) if selection == "mean" else apart
    ranked = np.argsort(-score, axis=1, kind="stable")
    if selection != "stepwise" or most == 0:
        return ranked[:, :most]
    pools = ranked[:, : max(POOL, most)]
    return np.stack([pool[_stepwise(_columns(x, pool), y, most)] for pool, y in zip(pools, classes.T, strict=True)])


def _moments(x: Any, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two arrays [classes, latents]: mean of members less mean of others, and variance where both weigh half."""
    ones = np.ones((x.shape[0], 1))
    both = np.hstack([classes, ones])
    if isinstance(x, np.ndarray):
        first, second = np.zeros((2, x.shape[1], both.shape[1]))
        for start in range(0, len(x), ROWS):  # less the first row: a mean that dwarfs the variance would cancel it
            part, y = x[start : start + ROWS] - x[0], both[start : start + ROWS].astype(x.dtype)
            first += part.T @ y
            second += np.square(part).T @ y
    else:
        first, second = x.T @ both, x.multiply(x).T @ both
    members, others = classes.sum(axis=0), (~classes).sum(axis=0)
    means = [first[:, :-1] / members, (first[:, -1:] - first[:, :-1]) / others]
    square = (second[:, :-1] / members + (second[:, -1:] - second[:, :-1]) / others) / 2
    variance = square - np.square((means[0] + means[1]) / 2)
    variance[variance <= 1e-10 * square] = 0
    return (means[0] - means[1]).T, variance.T


def _stepwise(z: Float[np.ndarray, "rows pool"], y: Bool[np.ndarray, " rows"], most: int) -> list[int]:
    """Choose columns by forward selection for least squares on y, with members and others of equal weight."""
    weight = np.where(y, 0.5 / y.sum(), 0.5 / (~y).sum())
    z = z - weight @ z
    scale = np.sqrt(weight @ np.square(z))
    z = z / np.where(scale > 0, scale, 1)
    gram = (z * weight[:, None]).T @ z
    left = np.diag(gram).copy()  # variance of each column that the chosen ones leave unexplained
    match = (weight * np.where(y, 1.0, -1.0)) @ z  # covariance of what is left of each column with what is left of y
    basis = np.zeros((most, len(gram)))
    picks: list[int] = []
    for step in range(most):
        gain = np.divide(np.square(match), left, out=np.zeros_like(left), where=left > 1e-6)
        gain[picks] = -1
        best = int(gain.argmax())
        picks.append(best)
        if left[best] > 1e-6:
            basis[step] = (gram[best] - basis[:step, best] @ basis[:step]) / math.sqrt(left[best])
            match = match - basis[step] * (match[best] / math.sqrt(left[best]))
            left = left - np.square(basis[step])
    return picks


def _fit(train: np.ndarray, y: np.ndarray, test: np.ndarray, c: float = 1.0) -> np.ndarray:
    """Fit a logistic regression on dense latents; return which test rows it takes for members."""
    scale = train.std(axis=0)
    scale[scale == 0] = 1
    center = train.mean(axis=0)  # the intercept would do the same, but for rounding
    regression = _sklearn()(C=c, class_weight="balanced", solver="newton-cholesky")
    return regression.fit((train - center) / scale, y).predict((test - center) / scale)


def _whole(train: Any, classes: np.ndarray, test: Any) -> np.ndarray:
    """Fit a logistic regression on all latents for each class; return [test rows, classes], True for members."""
    if not isinstance(train, np.ndarray):
        mean = np.asarray(train.mean(axis=0)).ravel()
        scale = np.sqrt(np.asarray(train.multiply(train).mean(axis=0)).ravel() - np.square(mean))
        scale[scale == 0] = 1
        regression = _sklearn()(C=SOFT, class_weight="balanced", max_iter=300, tol=1e-3)
        train, test = train.multiply(1 / scale).tocsr(), test.multiply(1 / scale).tocsr()
        return np.stack([regression.fit(train, y).predict(test) for y in classes.T], axis=1)
    if train.shape[1] > WIDEST:
        # Similarities span no more directions than the activations do, and these tell as much in far less time.
        rows = np.linspace(0, len(train) - 1, min(len(train), ROWS // 2)).astype(np.int64)
        scale = np.maximum(train[rows].std(axis=0), 1e-12)
        sample = ((train[rows] - train[rows].mean(axis=0)) / scale).astype(np.float64)
        values, vectors = np.linalg.eigh(sample @ sample.T)
        kept = np.flatnonzero(values > 1e-9 * values[-1])[-WIDEST:]
        basis = ((sample.T @ vectors[:, kept]) / np.sqrt(values[kept]) / scale[:, None]).astype(train.dtype)
        train, test = train @ basis, test @ basis
    return np.stack([_fit(train, y, test, SOFT) for y in classes.T], axis=1)


def _result(
    size: int | None, latents: np.ndarray | None, classes: np.ndarray, said: np.ndarray, groups: np.ndarray
) -> ProbeResult:
    counts = [said & classes, classes, ~said & ~classes, ~classes]
    sums = by_document(np.hstack(counts).astype(np.float64), groups.astype(str))
    mean = interval(sums, lambda totals: balanced_accuracy(totals).mean(axis=-1))
    return ProbeResult(size, latents, interval(sums, balanced_accuracy), mean, sums)


def _matrix(features: Any) -> Any:
    """Return features as a numpy array, or as a CSR matrix if they are sparse."""
    if isinstance(features, tuple):
        return sparse_features(*features)
    if isinstance(features, Tensor):
        features = features.detach().cpu().float().numpy()
    values = features.data if (sparse := hasattr(features, "tocsr")) else features
    if not np.isfinite(values).all():
        raise ActivationError("the features are not all finite: drop the rows that hold NaN or infinity")
    return features.tocsr() if sparse else features


def _columns(x: Any, latents: np.ndarray) -> Float[np.ndarray, "rows chosen"]:
    part = x[:, latents]
    return (part if isinstance(x, np.ndarray) else part.toarray()).astype(np.float64)


def _sklearn() -> Any:
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ItdaError("probing needs scikit-learn: pip install 'itda[probing]'") from error
    return LogisticRegression
