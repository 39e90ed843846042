"""From an old adapter to a new one that is known to work: starts, teaching, and the verdict."""
