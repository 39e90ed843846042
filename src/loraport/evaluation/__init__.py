"""Scores of models with adapters, and the statistics of their comparison."""
