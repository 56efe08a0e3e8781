"""Mathematics without I/O: labels, codes, dictionaries, pursuits, training, measures."""
