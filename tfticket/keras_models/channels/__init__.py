"""Which channels of a model live or die together: labels, one rule a layer, groups.

For pruning by channels, `export.compact`, and rules of your own. `trace` follows labels
through the graph, `registry` finds a layer's rule, and `groups` collects what is tied.
"""
