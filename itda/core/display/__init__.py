"""What a notebook shows of labels, dictionaries and decompositions."""
