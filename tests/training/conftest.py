"""What the tests of training share: one thread, a small detector, a small data set."""

import pytest
import torch

from ddetr_edu.data import write_shapes_set
from ddetr_edu.detector import DeformableDETR, DeformableDETRConfig, PictureSize
from ddetr_edu.training import Detector

CATEGORIES = {3: "cat", 7: "dog", 90: "toothbrush"}  # ids with gaps


@pytest.fixture(autouse=True)
def one_thread():
    """Sums come in the same order on every machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def build():
    """build(seed=0, categories=...): a small detector for pictures of 64 to 96 px, in eval mode."""

    def make(seed: int = 0, categories=CATEGORIES, **changes) -> Detector:
        torch.manual_seed(seed)
        small = dict(d_model=64, n_heads=2, n_points=3, n_encoder_layers=1, n_decoder_layers=2,
                     d_ffn=37, n_queries=19)  # fmt: skip
        config = DeformableDETRConfig.preset(
            "tiny", **{**small, "num_classes": len(categories), **changes}
        )
        return Detector(DeformableDETR(config), categories, PictureSize(64, 96)).eval()

    return make


@pytest.fixture(scope="session")
def shapes_folder(tmp_path_factory):
    """A small set in COCO's layout: five pictures to learn from, three to evaluate on."""
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes_set(folder, train=5, val=3, seed=11)
    return folder
