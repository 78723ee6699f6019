"""What the tests against other implementations share: no progress bars, no network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is first imported
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
