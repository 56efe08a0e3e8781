"""Activations kept on disk."""
