"""Any Keras model, with masks or without: names, kernels, graph, calls, copies.

For maintainers, and for layers of your own. `masked_layer` is the protocol of layers
that carry masks, `graph` the one walker of graphs, `calls` the one counter of
operations; `internals` holds everything that Keras keeps private.
"""
