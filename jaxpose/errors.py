"""Errors that a user can act on."""

import difflib
from collections.abc import Iterable


class JaxposeError(Exception):
    """Base of the errors that this library raises about what it was given.

    Examples:
      >>> from jaxpose import JaxposeError, load_config
      >>> try:
      ...     load_config("prtr:cocco")
      ... except JaxposeError as error:
      ...     print(type(error).__name__, "Did you mean 'coco'" in str(error))
      ConfigError True
    """


class DataError(JaxposeError):
    """A file, record or field of a data set is not what it should be. The message says which, and what to do."""


class ImageError(DataError):
    """An image cannot be read."""

    def __init__(self, name: str, why: str):
        super().__init__(f"image {name}: {why}")
        self.name = name
        self.why = why


class ConfigError(JaxposeError, ValueError):
    """A config field, or an option of a command, has a value that cannot work."""


class CheckpointError(JaxposeError):
    """A checkpoint is missing, damaged, or of another method or shape."""


class NonFiniteError(JaxposeError):
    """A loss, gradient or update is NaN or infinite. Nothing was saved after it."""


class StorageError(JaxposeError):
    """A file cannot be written: the disk is full, its folder vanished, or nothing may be written there."""


class ContractError(JaxposeError):
    """A method breaks the contract of `methods.base`: a field has a shape or dtype that was not promised."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about a name that does not exist: the known name that is most like it, if one is.

    >>> did_you_mean("cocoo", ["coco", "mpii"]), did_you_mean("x", ["coco"])
    (" Did you mean 'coco'?", '')
    """
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
