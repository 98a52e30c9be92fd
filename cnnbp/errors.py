"""Errors that a user can mend."""


class UserError(ValueError):
    """Something that the user can mend; the message says what is wrong and what to do."""


def on_one_line(error: BaseException) -> str:
    """The kind of an error and its message, without line breaks."""
    kind, message = type(error).__name__, " ".join(str(error).split())
    return f"{kind}: {message}" if message else kind
