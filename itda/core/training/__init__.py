"""Training: one pass that grows a dictionary, and all that belongs to it."""
