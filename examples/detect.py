"""Detect objects in an image with the model that comes with the course.

    uv run python examples/detect.py [IMAGE]

Prints the label, the score and the box of each, in pixels of the image.
"""

import sys

import ddetr_edu as dd
from ddetr_edu.checkpoints.shipped import shipped_checkpoint

IMAGE = sys.argv[1] if len(sys.argv) > 1 else "data/shapes-mini/val/000002.png"

detector = dd.load(shipped_checkpoint()).for_inference()
found = detector.predict(IMAGE, threshold=0.5)
for label, score, box in zip(found["labels"], found["scores"], found["boxes"], strict=True):
    corners = ", ".join(f"{number:.0f}" for number in box.tolist())
    print(f"{detector.categories[int(label)]:10} {score:.2f}  ({corners})")
