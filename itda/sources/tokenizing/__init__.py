"""From documents to windows of tokens, and back to the characters of each token."""
