"""The explorer: what a dictionary's atoms are and where they are used, as pages in a browser or as one file."""

PORT = 8642
"""Where the explorer is served, if that is free."""
