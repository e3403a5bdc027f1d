"""The two exceptions for mistakes that the user can fix, and the text of others for their messages."""


class UserError(Exception):
    """A mistake that the user can fix; the message says how."""


class BadLine(ValueError):
    """A line, or a block that contains it, violates the format; the message says how."""


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
