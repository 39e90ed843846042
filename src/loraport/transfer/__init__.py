"""An adapter through the maps of a pair: the carried adapter and the merged model."""
