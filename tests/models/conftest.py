"""What the tests of the models share: a model so small that every test can afford one."""

import pytest
import torch

from ddetr_edu.models.config import DeformableDETRConfig
from ddetr_edu.models.deformable_detr import DeformableDETR

SMALL = dict(
    num_classes=5,
    d_model=96,
    n_heads=3,
    n_levels=3,
    n_points=2,
    n_encoder_layers=2,
    n_decoder_layers=3,
    d_ffn=37,
    n_queries=11,
)


@pytest.fixture
def build():
    """build(seed=0, **changes): a small model in evaluation mode, with noise on its parameters.

    With the official initialisation the box heads and the attention weights are constant, and a
    test would not notice a wrong input to them.
    """

    def make(seed: int = 0, **changes) -> DeformableDETR:
        torch.manual_seed(seed)
        config = DeformableDETRConfig.preset("tiny", **{**SMALL, **changes})
        model = DeformableDETR(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
        return model.eval()

    return make


@pytest.fixture
def random():
    """A generator with a fixed seed."""
    return torch.Generator().manual_seed(17)
