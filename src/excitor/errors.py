"""The one exception for mistakes a user can mend."""


class ExcitorError(ValueError):
    """A wrong input: the message names what was wrong, what was expected and how to mend it.

    The command line prints it without a traceback and leaves with exit code 2. It is a ``ValueError``, so Python
    callers can catch it as they catch PEFT's own configuration errors.
    """


class NonFiniteError(ExcitorError):
    """A loss, a gradient or logits are no finite numbers: training has diverged, or the precision is too low."""


class UnsupportedPeftError(ExcitorError, ImportError):
    """The installed PEFT is not one that this version of excitor can be a method of."""
