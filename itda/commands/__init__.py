"""The commands: what each does with its settings, and prints. `itda.commands.table` lists them."""
