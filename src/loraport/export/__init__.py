"""Adapters in the forms that servers and hubs take: GGUF, vLLM's command line, the hub."""
