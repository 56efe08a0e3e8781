"""What can go wrong, one class per kind of remedy.

    ItdaError                 anything the user can put right: shown as one line, exit status 2
    ├── SettingError          an option or argument out of range
    ├── ActivationError       activations that cannot be decomposed: a NaN row, a wrong width
    ├── CorpusError           a corpus that is empty, unreadable or unknown
    ├── ModelError            a model that is unknown, unreachable or has no such site
    ├── StoreError            a run folder that exists, is truncated, foreign or incomplete
    └── MissingError          a page, an atom or a token that is not there

Every message is one line and ends with what to do. `SettingError` and `ActivationError` are `ValueError`s too.
"""


class ItdaError(Exception):
    """Base of every error that a user can correct. Its one line ends with what to do.

    >>> import itda
    >>> try:
    ...     itda.Trainer(d_model=8, k=0, threshold=0.2)
    ... except itda.ItdaError as error:
    ...     print(error)
    k is 0: it must be at least 1, the number of atoms per activation
    """


class SettingError(ItdaError, ValueError):
    """An option or an argument is out of range."""


class ActivationError(ItdaError, ValueError):
    """Activations cannot be decomposed as they are."""


class CorpusError(ItdaError):
    """A corpus is empty, unreadable or unknown."""


class ModelError(ItdaError):
    """A language model is unknown, unreachable or lacks a site."""


class StoreError(ItdaError):
    """A run folder exists already, or is truncated, foreign or incomplete."""


class MissingError(ItdaError):
    """The explorer is asked for a page, an atom or a token that is not there."""
