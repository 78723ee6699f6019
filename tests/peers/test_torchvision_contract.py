"""`Detector` in place of a torchvision detector: in its training loop, and in torchmetrics."""

import math

import pytest
import torch
from torchvision.ops import box_convert

from ddetr_edu.data.coco import coco_ground_truth
from ddetr_edu.data.scenes import CATEGORIES
from ddetr_edu.data.shapes import Shapes
from ddetr_edu.detector import Detector
from ddetr_edu.evaluation.coco_metrics import evaluate
from ddetr_edu.models.config import DeformableDETRConfig, ResizeConfig
from ddetr_edu.models.deformable_detr import DeformableDETR
from ddetr_edu.models.preprocessing import to_floats


@pytest.fixture
def detector():
    torch.manual_seed(0)
    config = DeformableDETRConfig.preset(
        "tiny",
        num_classes=6,
        d_model=64,
        n_heads=2,
        n_encoder_layers=1,
        n_decoder_layers=2,
        d_ffn=64,
        n_queries=20,
    )
    return Detector(DeformableDETR(config), CATEGORIES, ResizeConfig(64, 96))


def train_one_epoch(model, optimizer, loader, device, scheduler):
    """What torchvision's reference train_one_epoch requires of a model, and nothing else."""
    model.train()
    totals = []
    for images, targets in loader:
        images = [image.to(device) for image in images]
        targets = [
            {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in target.items()}
            for target in targets
        ]
        with torch.autocast(device.type, enabled=False):
            loss_dict = model(images, targets)
            losses = sum(loss for loss in loss_dict.values())
        # The reference reduces each loss over the processes by its name: they must be scalars.
        total = sum(loss.detach() for loss in loss_dict.values()).item()
        assert math.isfinite(total)
        optimizer.zero_grad()
        losses.backward()
        optimizer.step()
        scheduler.step()
        totals.append(total)
    return totals


class AsFloats(torch.utils.data.Dataset):
    """A data set with images as in torchvision's references: floats in [0, 1]."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, i):
        image, target = self.dataset[i]
        return to_floats(image), target


def test_it_trains_in_torchvisions_loop(detector):
    data = AsFloats(Shapes(4, seed=3))
    loader = torch.utils.data.DataLoader(data, 2, collate_fn=lambda b: tuple(zip(*b, strict=True)))
    parameters = [p for p in detector.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=4)
    device = torch.device("cpu")
    epochs = [train_one_epoch(detector, optimizer, loader, device, scheduler) for _ in range(6)]
    assert sum(epochs[-1]) < 0.8 * sum(epochs[0])


class DisplacedDetections:
    """Images whose ground truth is some of the detector's own detections, a little displaced."""

    categories = CATEGORIES

    def __init__(self, detector, count):
        self.image_ids = list(range(count))
        self.samples = []
        generator = torch.Generator().manual_seed(1)
        for i in self.image_ids:
            image = torch.rand(3, 71, 89, generator=generator)
            with torch.no_grad():
                (found,) = detector([image])
            keep = torch.arange(0, 20, 3)
            shift = 4 * torch.rand(len(keep), 1, generator=generator) * torch.tensor([1, 0, 1, 0])
            target = {"image_id": i, "boxes": found["boxes"][keep] + shift}
            self.samples.append((image, {**target, "labels": found["labels"][keep]}))

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, i):
        return self.samples[i]

    def ground_truth(self):
        boxes = [
            {
                "image_id": t["image_id"],
                "category_id": int(label),
                "bbox": box,
                "iscrowd": 0,
                "area": box[2] * box[3],
            }
            for _, t in self.samples
            for box, label in zip(
                box_convert(t["boxes"], "xyxy", "xywh").tolist(), t["labels"], strict=True
            )
        ]
        images = [{"id": i, "width": 89, "height": 71} for i in self.image_ids]
        return coco_ground_truth(images, boxes, self.categories)


def test_torchmetrics_takes_its_detections_and_agrees_with_our_evaluation(detector):
    metrics = pytest.importorskip("torchmetrics.detection")
    detector.eval()
    data = DisplacedDetections(detector, 3)
    with torch.no_grad():
        found = detector([image for image, _ in data])
    metric = metrics.MeanAveragePrecision(box_format="xyxy", iou_type="bbox")
    metric.update(found, [target for _, target in data])
    theirs = metric.compute()
    ours, _ = evaluate(detector, data, batch_size=3, show_progress=False)
    assert 0.05 < ours["AP"] < 0.95
    for name, their_name in (
        ("AP", "map"),
        ("AP50", "map_50"),
        ("AP75", "map_75"),
        ("AR1", "mar_1"),
        ("AR100", "mar_100"),
    ):
        assert theirs[their_name].item() == pytest.approx(ours[name], abs=1e-6), name
