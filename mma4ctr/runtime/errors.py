"""The two errors that a person who runs a command can put right."""


class UserError(Exception):
    """Something the person who runs the command can put right; the message says how."""


class BadLine(ValueError):
    """A line (or a block that holds one) is not what the format says; the message says what is wrong."""
