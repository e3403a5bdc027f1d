"""The two exceptions for mistakes that the user can fix."""


class UserError(Exception):
    """A mistake that the user can fix; the message says how."""


class BadLine(ValueError):
    """A line, or a block that contains it, violates the format; the message says how."""
