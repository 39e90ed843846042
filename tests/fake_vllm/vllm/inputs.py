"""As of vLLM."""


class TokensPrompt(dict):
    """A prompt as token ids."""
