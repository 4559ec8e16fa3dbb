"""The one exception that is shown to a user as a single line."""


class UserError(ValueError):
    """A mistake that the user can mend: says what is wrong, in which file, and what to do.

    `launch.py` prints the message without a traceback and exits with status 2; code that calls the
    package as a library can catch it as a `ValueError`.
    """
