"""The Python API: what each command does, in one call that returns objects. `itda.train` and others are made here."""
