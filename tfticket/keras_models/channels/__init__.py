"""Which channels of a model must be pruned together: labels, rules, groups.

For pruning by channels, `export.compact`, and rules of your own. `trace` follows labels
through the graph, `registry` finds a layer's rule, and `groups` collects tied channels.
"""
