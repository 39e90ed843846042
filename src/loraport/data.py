"""Training data by a short name: `loraport.training.data`."""

from .training.data import Example, encode, read, read_records, subset, to_example

__all__ = ["Example", "encode", "read", "read_records", "subset", "to_example"]
