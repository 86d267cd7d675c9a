"""Whether a written file computes what the model computes, found in another process."""
