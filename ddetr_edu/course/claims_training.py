"""Trials of the claims about boxes, matching and training."""

import functools
import itertools
import json
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_convert

from ddetr_edu.checkpoints.io import load
from ddetr_edu.checkpoints.shipped import shipped_checkpoint
from ddetr_edu.course.claim import Claim, Verdict, decide
from ddetr_edu.data.shapes import held_out_scenes
from ddetr_edu.detector import Detector
from ddetr_edu.evaluation.coco_metrics import detect, score, summarize
from ddetr_edu.evaluation.errors import classify_errors, count_errors
from ddetr_edu.files import shipped_path
from ddetr_edu.losses.matcher import LossWeights, class_cost, match, matching_cost
from ddetr_edu.models.config import DeformableDETRConfig, LookForward
from ddetr_edu.models.decoder import Decoder
from ddetr_edu.models.deformable_detr import Predictions
from ddetr_edu.models.heads import inverse_sigmoid
from ddetr_edu.models.preprocessing import best_detections
from ddetr_edu.models.queries import Queries

N_SCENES, THRESHOLD = 100, 0.3  # for duplicates: images, and the lowest score of a detection
MAX_IOU = 0.7  # above which NMS removes a detection
SMALL_AP = 0.01  # a difference that would not be noticed


@functools.cache
def shipped_detector() -> Detector:
    """The trained model that comes with the library."""
    return load(shipped_checkpoint()).eval()


def box_of_a_target(box: Tensor, height: int, width: int) -> Tensor:
    """The box that training compares with, as the library's detector prepares it.

    Args:
        box: (4,) xyxy in pixels.
        height: Of the image.
        width: Of the image.

    Returns:
        (4,), fractions of the image.
    """
    target = {"boxes": box[None], "labels": torch.tensor([1])}
    return shipped_detector().prepare_target(target, (height, width))["boxes"][0]


def try_order_of_a_box(prepare: Callable = box_of_a_target) -> Verdict:
    """The order of the numbers of a box that is wider than high.

    Args:
        prepare: As `box_of_a_target`.

    Returns:
        The verdict.
    """
    found = prepare(torch.tensor([20.0, 30, 80, 50]), 100, 200)  # 60 wide and 20 high
    claimed = torch.tensor([0.25, 0.4, 0.2, 0.3])  # (cx, cy, h, w)
    return decide(
        torch.allclose(found, claimed),
        "A box 60 wide and 20 high, in an image 200 wide and 100 high, becomes "
        f"({', '.join(f'{value:.2f}' for value in found)}): 60 / 200 = 0.30 comes before "
        "20 / 100 = 0.20.",
    )


def index_the_batch(boxes: Tensor, queries: Tensor) -> Tensor:
    """What the claim says.

    Args:
        boxes: (N, Lq, 4).
        queries: (N, k) of each image.

    Returns:
        Whatever that gives.
    """
    return boxes[queries]


def try_best_boxes(pick: Callable = index_the_batch) -> Verdict:
    """Whether a way to pick boxes gives those of the queries that were chosen.

    Args:
        pick: As `index_the_batch`.

    Returns:
        The verdict.
    """
    generator = torch.Generator().manual_seed(0)
    right = {}
    for n_images in (2, 8):  # fewer than queries, and more
        logits = torch.randn(n_images, 5, 3, generator=generator)
        boxes = 0.3 + 0.2 * torch.rand(n_images, 5, 4, generator=generator)
        best = best_detections(Predictions(logits, boxes), [(1, 1)] * n_images, 4)
        queries = torch.stack([each["queries"] for each in best])  # (N, k)
        expected = torch.stack([each["boxes"] for each in best])  # (N, k, 4)
        try:
            found = box_convert(pick(boxes, queries), "cxcywh", "xyxy")
        except IndexError:
            right[n_images] = "it raises IndexError"
            continue
        same = found.shape == expected.shape and torch.allclose(found, expected)
        shape = f"it gives the shape {tuple(found.shape)}"
        right[n_images] = "it is right" if same else shape
    return decide(
        all(result == "it is right" for result in right.values()),
        f"For the best 4 of 5 queries in each of 2 images, {right[2]}; in each of 8 images, "
        f"{right[8]}. The first axis is the batch; boxes are gathered along the second one.",
    )


def lowest_total(logits: Tensor, boxes: Tensor, target: dict[str, Tensor]) -> Tensor:
    """The library's matching.

    Args:
        logits: (Q, K).
        boxes: (Q, 4) (cx, cy, w, h).
        target: "labels" (T,) and "boxes" (T, 4).

    Returns:
        (T,), the query of each object.
    """
    ((queries, objects),) = match(logits[None], boxes[None], [target], LossWeights())
    return queries[objects.argsort()]


def try_matching(cost_of: Callable = class_cost, assign: Callable = lowest_total) -> Verdict:
    """What the class cost is, and whether the matching has the lowest or the highest total.

    Args:
        cost_of: As `class_cost`.
        assign: As `lowest_total`.

    Returns:
        The verdict.
    """
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 4, generator=generator)
    boxes, labels = 0.3 + 0.3 * torch.rand(5, 4, generator=generator), torch.tensor([2, 0, 2])
    target = {"labels": labels, "boxes": 0.3 + 0.3 * torch.rand(3, 4, generator=generator)}
    cross_entropy = -logits.log_softmax(-1)[:, labels]
    found = cost_of(logits, labels)
    off = (found - cross_entropy).abs().max().item()

    cost = matching_cost(logits, boxes, labels, target["boxes"], LossWeights())
    objects = torch.arange(3)
    totals = [
        cost[list(queries), objects].sum().item() for queries in itertools.permutations(range(5), 3)
    ]
    total = cost[assign(logits, boxes, target), objects].sum().item()
    return decide(
        off < 1e-4 and abs(total - max(totals)) < 1e-4,
        f"The class cost of a query and an object differs from the cross entropy by up to {off:.2f}"
        f", and is negative for {int((found < 0).sum())} of 15 pairs, as no cross entropy is. "
        f"Of all {len(totals)} matchings of 5 queries with 3 objects the totals go from "
        f"{min(totals):.2f} to {max(totals):.2f}; the one that is taken has {total:.2f}.",
    )


def try_clamp(inverse: Callable = inverse_sigmoid) -> Verdict:
    """Where inverse_sigmoid clamps, and how much it matters.

    Args:
        inverse: As `inverse_sigmoid`.

    Returns:
        The verdict.
    """
    at_zero = inverse(torch.zeros(1, dtype=torch.float64))
    eps = at_zero.sigmoid().item()
    x = torch.linspace(0, 1, 1001, dtype=torch.float64)
    moved = (inverse(x).sigmoid() - x).abs().max().item()
    return decide(
        abs(eps / 1e-6 - 1) < 0.01,
        f"inverse_sigmoid(0) is {at_zero.item():.2f}, whose sigmoid is {eps:.0e}. It "
        f"moves no box by more than {1000 * moved:.2f} pixels in an image 1,000 pixels wide, so it "
        "hardly matters.",
    )


def layers_reached(look_forward: LookForward) -> int:
    """How many decoder layers' own box corrections get a gradient from the last layer's box.

    Args:
        look_forward: A setting of the decoder: "once" detaches each refined box.

    Returns:
        The number of box heads, of three.
    """
    config = DeformableDETRConfig.preset(
        "tiny", d_model=32, d_ffn=32, n_heads=2, n_levels=1, look_forward=look_forward
    )
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = Decoder(config)
    content, position, memory = (torch.randn(1, n, 32, generator=generator) for n in (5, 5, 24))
    queries = Queries(content, position, torch.full((1, 5, 2), 0.4))
    mask = torch.zeros(1, 24, dtype=torch.bool)
    *_, (_, boxes) = decoder(queries, memory, [(4, 6)], torch.ones(1, 1, 2), mask)
    boxes.square().sum().backward()
    gradients = [[*heads.parameters()][-1].grad for heads in decoder.heads]  # of the last bias
    return sum(gradient is not None and bool(gradient.any()) for gradient in gradients)


def measured_ap() -> dict[str, float]:
    """The AP that training reached in one run of each setting, in percent.

    Returns:
        {setting of look_forward: AP}; a setting that was not tried is missing.

    Raises:
        FileNotFoundError: If the results do not come with the library.
    """
    path = shipped_path("benchmarks/results/ablation.json")
    runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
    names = {"full recipe": "twice", "look forward once (official code)": "once"}
    return {names[run["variant"]]: 100 * run["AP"] for run in runs if run["variant"] in names}


def try_no_detach(
    reached: Callable = layers_reached, ap_of: Callable[[], dict[str, float]] = measured_ap
) -> Verdict:
    """How far the gradient of a box flows back, and what was measured in training.

    Args:
        reached: As `layers_reached`.
        ap_of: As `measured_ap`.

    Returns:
        The verdict.
    """
    once, twice, always = (reached(setting) for setting in ("once", "twice", "always"))
    ap = ap_of()
    tried = "" if "always" in ap else " No run left out the detaching altogether."
    return decide(
        ap.get("always", 0) > max(ap["once"], ap["twice"]),
        f"The loss of the last of three layers reaches the box corrections of {once} layer if "
        f"boxes are detached, of {twice} with DINO's look forward twice, and of {always} if "
        f"nothing is detached. One short run each gave AP {ap['once']:.1f} and, looking forward "
        f"twice, {ap['twice']:.1f}.{tried}",
        ap["twice"] > ap["once"],
    )


def without_duplicates(results: list[dict]) -> list[dict]:
    """Remove detections that overlap a better one of the same class in the same image.

    Args:
        results: In COCO's format.

    Returns:
        Those that are left.
    """
    boxes = box_convert(torch.tensor([r["bbox"] for r in results]), "xywh", "xyxy")
    scores = torch.tensor([r["score"] for r in results])
    groups = torch.tensor([100 * r["image_id"] + r["category_id"] for r in results])
    return [dict(results[k]) for k in batched_nms(boxes, scores, groups, MAX_IOU).tolist()]


def try_without_nms(detector: Detector | None = None) -> Verdict:
    """How many duplicates a trained model has, and what NMS changes.

    Args:
        detector: Of drawn shapes; the trained model that comes with the library if None.

    Returns:
        The verdict.
    """
    scenes = held_out_scenes().first(N_SCENES)
    results = detect(detector or shipped_detector(), scenes, show_progress=False)
    n_detections = sum(result["score"] >= THRESHOLD for result in results)
    duplicates, ap = [], []
    for each in (results, without_duplicates(results)):
        coco = score([dict(result) for result in each], scenes)
        duplicates.append(count_errors(classify_errors(coco, THRESHOLD))["duplicate"])
        ap.append(summarize(coco)[0]["AP"])
    return decide(
        duplicates[0] == 0,
        f"In {N_SCENES} scenes, {duplicates[0]:,} of the {n_detections:,} detections with a "
        f"score of {THRESHOLD} or more are duplicates; NMS leaves {duplicates[1]} of them, and AP "
        f"goes from {100 * ap[0]:.1f} to {100 * ap[1]:.1f} percent.",
        ap[1] - ap[0] < SMALL_AP,
    )


CLAIMS = (
    Claim(13, "Boxes are (cx, cy, h, w).", try_order_of_a_box),
    Claim(
        14,
        "In post-processing, the boxes of the best queries are out_bbox[topk_boxes].",
        try_best_boxes,
    ),
    Claim(
        15,
        "The class cost is the cross entropy, and the matching maximises the total weight.",
        try_matching,
    ),
    Claim(21, "inverse_sigmoid clamps at 1e-6.", try_clamp),
    Claim(24, "Box refinement is better without detaching the boxes.", try_no_detach),
    Claim(35, "One-to-one matching makes non-maximum suppression unnecessary.", try_without_nms),
)
