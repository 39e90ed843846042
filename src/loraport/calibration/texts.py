"""Calibration texts in a file: one a line, read as far as they are needed."""

from pathlib import Path

from ..errors import LoraportError

MIN_TEXTS = 4  # that the unbiased estimator can do with
MAX_CHARACTERS = (
    100_000  # characters of a text; of a long one no more than calibration.max_tokens count
)


def read_texts(path: str | Path, examples: int) -> list[str]:
    """The first `examples` lines of a text file that are not blank.

    Raises
    ------
    LoraportError
        If the file is missing, not UTF-8 text, holds fewer than 4 texts, or one without an end.
    """
    texts: list[str] = []
    try:
        with Path(path).open(encoding="utf-8") as file:
            while len(texts) < examples and (line := file.readline(MAX_CHARACTERS + 1)):
                if len(line) > MAX_CHARACTERS:
                    raise _endless(path)
                texts += [text for text in line.splitlines() if text.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise LoraportError(
            f"calibration texts {path} cannot be read",
            got=error,
            expected="a UTF-8 text file, one text a line",
            todo="correct calibration.texts",
        ) from error
    return check_texts(texts[:examples], str(path))


def _endless(path: str | Path) -> LoraportError:
    return LoraportError(
        f"calibration texts {path} hold a line that is no text",
        got=f"more than {MAX_CHARACTERS} characters in one line",
        expected="a UTF-8 text file, one text a line",
        todo="break it into lines",
    )


def check_texts(texts: list[str], where: str) -> list[str]:
    """Refuse a calibration set that is too small for the unbiased estimator."""
    if len(texts) < MIN_TEXTS:
        raise LoraportError(
            f"calibration texts {where} are too few",
            got=f"{len(texts)} texts that are not blank",
            expected=f"at least {MIN_TEXTS}, better some hundreds",
            todo="give more texts, one a line",
        )
    return texts
