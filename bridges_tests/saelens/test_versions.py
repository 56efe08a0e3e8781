"""The environment has the versions that docs/bridges.md tells."""

from importlib.metadata import version


def test_saelens_is_the_one_of_the_list():
    assert version("sae-lens") == "6.54.12"
