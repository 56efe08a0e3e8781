"""Measures that need a model: what its predictions lose with a dictionary, and what its latents tell."""
