"""The package runs from a checkout that nobody has installed."""

from importlib.metadata import PackageNotFoundError, version

import pytest

import itda
from itda.recipes import unfinished


def test_versions_are_known_where_the_package_is_not_installed(monkeypatch: pytest.MonkeyPatch):
    def absent(name: str) -> str:
        if name == "itda":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(unfinished, "version", absent)
    assert unfinished.versions()["itda"] == itda.__version__
