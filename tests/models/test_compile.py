"""torch.compile: one compilation for all sizes of images, and one more for single images."""

import subprocess
import sys

import pytest

# In a process of its own: the compiler starts threads that later tests could not fork.
PROGRAM = """
import sys
import torch
from ddetr_edu.models.config import DeformableDETRConfig
from ddetr_edu.models.deformable_detr import DeformableDETR

preset, ignore_padding = sys.argv[1], sys.argv[2] == "True"
sizes = dict(num_classes=3, d_model=32, n_heads=2, n_levels=2, d_ffn=16, n_queries=7)
sizes |= dict(n_encoder_layers=1, n_decoder_layers=1, ignore_padding=ignore_padding)
model = DeformableDETR(DeformableDETRConfig.preset(preset, **sizes)).eval()
compilations = 0

def count(graph, example_inputs):
    global compilations
    compilations += 1
    return graph

compiled = torch.compile(model, dynamic=True, fullgraph=True, backend=count)
generator = torch.Generator().manual_seed(0)
for number in range(10):
    n_images, height, width = 2 + number % 3, 64 + 7 * number, 200 - 11 * number
    images = torch.randn(n_images, 3, height, width, generator=generator)
    padding_mask = torch.zeros(n_images, height, width, dtype=torch.bool)
    padding_mask[1, 40:] = True
    for _ in range(2):
        with torch.no_grad():
            found, expected = compiled(images, padding_mask), model(images, padding_mask)
        torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.boxes, expected.boxes, rtol=1e-4, atol=1e-4)
        if number % 4:
            break
        images, padding_mask = images[:1], padding_mask[:1]  # and a single image
print(compilations)
"""


@pytest.mark.parametrize("preset, ignore_padding", [("tiny", False), ("tiny_two_stage", True)])
def test_all_sizes_share_one_compilation_and_single_images_another(preset, ignore_padding):
    command = [sys.executable, "-c", PROGRAM, preset, str(ignore_padding)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) <= 2
