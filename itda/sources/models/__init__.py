"""Language models: found by name, loaded, tried, and read at their sites."""
