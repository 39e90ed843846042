"""The one kind of error that users see: what, got, expected, what to do."""


class LoraportError(Exception):
    """Bad input or a state that the user can mend, told in one paragraph.

    Parameters
    ----------
    what : what is wrong, and where (a sentence without its full stop)
    got, expected : the two sides of the disagreement, where there are two
    todo : the way on
    """

    def __init__(self, what: str, *, got: object = None, expected: object = None, todo: str = ""):
        self.what, self.got, self.expected, self.todo = what, got, expected, todo
        parts = [what.rstrip(".")]
        if got is not None:
            parts.append(f"Got: {_shown(got)}")
        if expected is not None:
            parts.append(f"Expected: {expected}")
        if todo:
            parts.append(f"What to do: {todo.rstrip('.')}")
        super().__init__(". ".join(parts) + ".")


def _shown(got: object) -> str:
    """What was got, never an empty word: of an error without a text its kind."""
    if isinstance(got, BaseException) and not str(got).strip():
        return type(got).__name__
    return str(got) if str(got).strip() else "nothing"


def words(error: BaseException) -> str:
    """What an error of another library says, in one line of at most 300 characters.

    Examples
    --------
    >>> words(OSError("404 Client Error.\\n\\nNo such repository."))
    '404 Client Error. No such repository'
    >>> words(TimeoutError())
    'TimeoutError'
    """
    said = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return said if len(said) <= 300 else f"{said[:299]}…"
