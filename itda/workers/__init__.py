"""Ray: a model over several workers, and trainers over several workers."""
