"""Training: one pass over activations that grows a dictionary, with its opening, crop and refinement."""
