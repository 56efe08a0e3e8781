"""The explorer: what a dictionary's atoms are and where they are used, as pages in a browser or as one file."""
