"""Settings of the test run: property tests are deterministic, and nothing asks the network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

from hypothesis import settings

settings.register_profile("house", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("house")
