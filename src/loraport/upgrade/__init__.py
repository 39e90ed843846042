"""From an old adapter to a new one that is known to work: starts, teaching, and the verdict.

The room can be called: `loraport.upgrade(old, new, adapters, out, prompts=…)` is that of
`loraport.api_verdicts`.
"""

from .._entry import let_be_called

let_be_called(__name__)
