"""Labels, dictionaries and decompositions as text for a terminal and HTML for a notebook."""
