"""Run folders: dictionaries, records and checkpoints on disk, and dictionaries on the Hub."""
