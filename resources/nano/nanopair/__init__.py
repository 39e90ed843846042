"""Deterministic text generators of the embedded pair: base corpora and the three apps."""
