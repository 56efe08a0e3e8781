"""Corpora: documents with stable ids, from files, folders, Python itself or the Hub."""
