"""How dead channels are removed: what is live, then a model of smaller layers.

For `export.compact`. The rules that both passes read are in `keras_models.channels`.
"""
