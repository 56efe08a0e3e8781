"""The explorer: pages that show a dictionary's atoms and where they are used, in a browser or as one file."""

PORT = 8642
"""The TCP port that the explorer is served at, if it is free."""
