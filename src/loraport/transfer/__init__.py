"""An adapter through the maps of a pair: the carried adapter and the merged model.

The room can be called: `loraport.transfer(old, new, adapter, out)` is `loraport.api.transfer`.
"""

from .._entry import let_be_called

let_be_called(__name__)
