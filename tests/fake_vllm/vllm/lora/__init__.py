"""As of vLLM."""
