"""Model directories: dimensions, weights, tokens, families of architectures, loading."""
