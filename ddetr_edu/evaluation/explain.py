"""COCO's metrics in words: what -1 stands for, and objects that cannot count."""

from collections import Counter


def describe_ap(metrics: dict[str, float]) -> str:
    """AP and AP50 in one line, such as "AP 0.512, AP50 0.740".

    Args:
        metrics: From `evaluate`.

    Returns:
        The line; without an object there is no AP, and it says so.
    """
    if metrics["AP"] < 0:
        return "no AP, because the images have no object that could be found"
    return f"AP {metrics['AP']:.3f}, AP50 {metrics['AP50']:.3f}"


def explain(metrics: dict[str, float], dataset, max_detections: int = 100) -> list[str]:
    """What the metrics of a data set cannot show, in words.

    Args:
        metrics: From `evaluate`.
        dataset: What was evaluated on.
        max_detections: How many detections of an image counted.

    Returns:
        A sentence about numbers that are -1, and one about images with more objects than
        detections that count; those that apply.
    """
    sentences = []
    sizes = {"AP_S": "small", "AP_M": "medium-sized", "AP_L": "large"}
    missing = [size for name, size in sizes.items() if metrics[name] < 0]
    if metrics["AP"] < 0:
        sentences.append(
            "-1.000 stands for no number: these images have no object, crowds apart, so there is "
            "nothing to measure"
        )
    elif missing:
        sentences.append(
            f"-1.000 stands for no number: these images have no {' and no '.join(missing)} object "
            "(small is below 32 x 32 pixels, large above 96 x 96)"
        )
    annotations = dataset.ground_truth().anns.values()
    counts = Counter(a["image_id"] for a in annotations if not a["iscrowd"])
    crowded = sum(count > max_detections for count in counts.values())
    if crowded:
        sentences.append(
            f"{crowded} of {len(dataset)} images have more than {max_detections} objects, up to "
            f"{max(counts.values())}, but only the {max_detections} best detections of an image "
            "count: --max-detections counts more"
        )
    return sentences
