"""Two language models read side by side, for the differences between them: `itda diff`."""
