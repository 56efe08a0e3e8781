"""Measures that need a language model: the loss with a dictionary spliced in, and probes of latents."""
