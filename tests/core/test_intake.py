"""What is taken as activations and what is refused: the same at every function that users give activations to."""

import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from core.helpers import labels, normal, unit_rows

import itda
from itda import ITDA, ActivationBatch
from itda.core.intake import rows_of, tensor_of
from itda.errors import ActivationError

MODEL = ITDA(unit_rows(12, 8), labels(12), k=3, massive_norm=100.0)
X = normal(6, 8)


def offered(x):
    trainer = itda.Trainer(8, k=2, threshold=0.1)
    trainer.offer(ActivationBatch(x, labels(len(x))))
    return trainer.finish().atoms


def error_in_training(x):
    trainer = itda.Trainer(8, k=2, threshold=0.1)
    trainer.offer(ActivationBatch(X, labels(len(X))))
    return trainer.error(x)


ENTRIES: dict[str, Callable] = {
    "encode": lambda x: MODEL.encode(x).coefficients,
    "decompose": lambda x: MODEL.decompose(x)[1],
    "similarity": MODEL.similarity,
    "is_massive": MODEL.is_massive,
    "error": lambda x: MODEL.error(x, MODEL.encode(X)),
    "call": MODEL,
    "pursue": lambda x: itda.pursue(x, MODEL.atoms, 2)[0].coefficients,
    "offer": offered,
    "batch of rows": lambda x: ActivationBatch.of(x).activations,
    "batch of tokens": lambda x: ActivationBatch.of(x, tokens=list("abcdef")).activations,
    "error in training": error_in_training,
    "refine": lambda x: itda.refine(replace(MODEL, massive_norm=None), x, passes=1).atoms,
    "fit": lambda x: itda.fit(x, threshold=0.1, k=2).atoms,
}

TAKEN: dict[str, Callable] = {
    "float16": lambda x: x.half(),
    "bfloat16": lambda x: x.bfloat16(),
    "float64": lambda x: x.double(),
    "not contiguous": lambda x: x.T.contiguous().T,
    "every other": lambda x: x.repeat_interleave(2, dim=0)[::2],
    "requires_grad": lambda x: x.clone().requires_grad_(),
    "array": lambda x: x.numpy(),
    "array of float16": lambda x: x.half().numpy(),
    "array of float64": lambda x: x.double().numpy(),
    "Fortran order": lambda x: np.asfortranarray(x.numpy()),
    "backwards": lambda x: x.numpy()[::-1].copy()[::-1],
    "other byte order": lambda x: x.numpy().astype(">f4"),
    "read-only": lambda x: read_only(x.numpy().copy()),
}

FLOATING = r"give a tensor, or an array of floating-point numbers"
REFUSED: dict[str, tuple[Callable, str]] = {
    "integers": (lambda x: x.long(), FLOATING),
    "booleans": (lambda x: x > 0, FLOATING),
    "complex": (lambda x: x.to(torch.complex64), FLOATING),
    "array of integers": (lambda x: x.long().numpy(), FLOATING),
    "sparse": (lambda x: x.to_sparse(), r"give it dense, as x\.to_dense\(\)"),
    "masked": (lambda x: np.ma.MaskedArray(x.numpy()), "leave the masked rows out"),
    "NaN": (lambda x: spoilt(x, float("nan")), "is not finite: (leave|mask) it out, or run the model in float32"),
    "infinity": (lambda x: spoilt(x, -float("inf")).numpy(), "is not finite: (leave|mask) it out"),
}
WIDE = r"of width 5 for atoms of width 8: use the model"


def dtype_of(array: np.ndarray) -> torch.dtype:
    return {2: torch.float16, 4: torch.float32, 8: torch.float64}[array.dtype.itemsize]


def read_only(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array


def spoilt(x: torch.Tensor, value: float) -> torch.Tensor:
    x = x.clone()
    x[4, 2] = value
    return x


@pytest.mark.parametrize("kind", TAKEN)
@pytest.mark.parametrize("entry", ENTRIES)
def test_what_holds_floating_point_numbers_is_taken(entry: str, kind: str):
    given = TAKEN[kind](X)
    plain = (
        given.detach() if isinstance(given, torch.Tensor) else torch.tensor(given.astype(given.dtype.newbyteorder("=")))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as torch's for a read-only array
        found = ENTRIES[entry](given)
    assert torch.equal(found, ENTRIES[entry](plain.contiguous()))
    assert not found.requires_grad


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("entry", ENTRIES)
def test_what_holds_no_finite_numbers_is_refused_in_one_line(entry: str, kind: str):
    make, message = REFUSED[kind]
    with pytest.raises(ActivationError, match=message) as error:
        ENTRIES[entry](make(X))
    assert "\n" not in str(error.value)
    if kind == "NaN":
        assert "4" in str(error.value)  # the row


@pytest.mark.parametrize("entry", ["encode", "decompose", "similarity", "is_massive", "error", "call", "offer"])
def test_another_width_is_refused(entry: str):
    with pytest.raises(ActivationError, match=WIDE):
        ENTRIES[entry](normal(6, 5))


@pytest.mark.parametrize("shape", [(8,), (2, 3, 8), (1, 1, 1, 8)])
def test_rows_have_two_axes(shape: tuple[int, ...]):
    x = torch.ones(shape)
    for taken in (rows_of, lambda x: ActivationBatch(x, labels(len(x))), lambda x: itda.fit(x, threshold=0.1, k=2)):
        with pytest.raises(ActivationError, match=r"give \[rows, width\], as x\.reshape\(-1, x\.shape\[-1\]\)"):
            taken(x)


@pytest.mark.parametrize("given", [[1.0, 2.0], np.ones(2, int), np.array(["a"]), None, np.ones(2, np.longdouble)])
def test_what_is_no_activation_is_one_line(given):
    with pytest.raises(ActivationError, match=FLOATING) as error:
        tensor_of(given)
    assert "\n" not in str(error.value)


def test_a_tensor_is_taken_as_it_is_and_an_array_is_copied():
    x, array = torch.ones(2, 3), np.ones((2, 3), np.float32)
    assert tensor_of(x) is x
    tensor_of(array)[0, 0] = 7
    assert array[0, 0] == 1
    weights = torch.ones(2, 3, requires_grad=True)
    assert not tensor_of(weights).requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("entry", ENTRIES)
def test_tensors_on_a_gpu_are_taken(entry: str):
    assert torch.equal(ENTRIES[entry](X.cuda()).cpu(), ENTRIES[entry](X))
