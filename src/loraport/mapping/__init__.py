"""How the old model of a pair maps onto the new one: embedding, layers, heads, distance."""
