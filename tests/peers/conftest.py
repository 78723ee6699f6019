"""What the tests against other implementations share: silence, no network, one thread."""

import os

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is first imported
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
