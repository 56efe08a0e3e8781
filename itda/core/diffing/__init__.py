"""What changed between two models, as labelled activations: the mathematics of `itda diff`."""
