"""Lottery tickets (arXiv 1803.03635): masks, the weights they start from, rounds."""
