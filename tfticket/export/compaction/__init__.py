"""How dead channels are removed: find what is live, then build smaller layers.

For `export.compact`. Both passes use the rules in `keras_models.channels`.
"""
