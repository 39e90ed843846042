"""Training data, starts and training of adapters."""
