"""Examples in docstrings and in the README run as they stand."""

import doctest
import importlib
import pkgutil

import pytest

import itda

MODULES = [m.name for m in pkgutil.walk_packages(itda.__path__, "itda.")]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_give_what_they_show(name: str):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


@pytest.mark.parametrize("name", itda.__all__)
def test_public_names_have_an_example(name: str):
    assert ">>>" in getattr(itda, name).__doc__, f"{name} has no example"
