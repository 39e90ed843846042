"""Into how many parts a small set is divided, where trainings are asked for what they left out."""

FOLDS = 3


def learned(count: int) -> int:
    """How many of `count` examples are learned where the first part of them is held back."""
    return count - -(-count // FOLDS)
