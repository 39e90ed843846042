"""Texts that both models read, and what is summed up or fitted while they do."""
