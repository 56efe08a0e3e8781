"""Adapters that turn text and language models into batches of labelled activations, in corpus order."""
