"""Any Keras model, with masks or without: its names, kernels, graph, calls, copies."""
