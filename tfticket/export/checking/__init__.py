"""Whether a written file computes what the model computes, found in another process.

For all exports. `processes` runs a program on arrays, and `compare` computes
differences relative to the largest value of each output.
"""
