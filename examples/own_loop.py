"""Train a detector in a loop of your own: the contract of torchvision.models.detection.

    uv run python examples/own_loop.py [STEPS]

Images are (3, H, W) in [0, 1], targets have boxes (x1, y1, x2, y2) in pixels and labels. `ddetr
train` does the same with warm-up, schedules, checkpoints and evaluation.
"""

import sys

import torch
from torchvision.transforms.v2.functional import to_dtype

import ddetr_edu as dd
from ddetr_edu.data.shapes import Shapes

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 20

torch.manual_seed(0)
scenes = Shapes(4, seed=0)  # four generated images, again and again
model = dd.DeformableDETR(
    dd.DeformableDETRConfig.preset("tiny", num_classes=len(scenes.categories))
)
detector = dd.Detector(model, scenes.categories)
optimizer = torch.optim.AdamW(detector.parameters(), lr=5e-4)
images, targets = zip(*scenes, strict=True)
images = [to_dtype(image, torch.float32, scale=True) for image in images]

for step in range(1, STEPS + 1):
    loss = sum(detector(images, list(targets)).values())
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(detector.parameters(), 0.1)
    optimizer.step()
    print(f"step {step}: loss {loss.item():.2f}")
dd.save("runs/own_loop.safetensors", detector)
