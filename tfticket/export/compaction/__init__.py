"""Removing dead units: which channels pass through a layer, and smaller layers."""
