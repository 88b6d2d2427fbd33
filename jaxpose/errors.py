"""Errors that a user can act on."""


class JaxposeError(Exception):
    """Base of the errors that this library raises about what it was given."""


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


class ContractError(JaxposeError):
    """A method breaks the contract of `methods.base`: a field has a shape or dtype that was not promised."""
