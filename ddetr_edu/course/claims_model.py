"""Trials of the claims about the model: features, positions, references, heads, two stages."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ddetr_edu.checkpoints.io import load
from ddetr_edu.checkpoints.shipped import shipped_checkpoint
from ddetr_edu.course.claim import Claim, Verdict, decide
from ddetr_edu.course.detection_counts import count_detections
from ddetr_edu.data.shapes import held_out_scenes
from ddetr_edu.models.capture import capture
from ddetr_edu.models.config import DeformableDETRConfig
from ddetr_edu.models.deformable_detr import DeformableDETR
from ddetr_edu.models.heads import PredictionHeads
from ddetr_edu.models.position import sine_position
from ddetr_edu.models.preprocessing import to_floats

N_SCENES = 12  # in which the trained model looks for objects


def build(preset: str, **changes) -> DeformableDETR:
    """A model on the device "meta", whose tensors have shapes and no numbers: it is built at once.

    Args:
        preset: The name of a configuration.
        **changes: Fields with other values.

    Returns:
        The model.
    """
    with torch.device("meta"):
        return DeformableDETR(DeformableDETRConfig.preset(preset, **changes)).eval()


def try_class_head(heads: nn.Module | None = None) -> Verdict:
    """How many linear layers the class head and the box head have.

    Args:
        heads: With a class_head and a bbox_head; the library's if None.

    Returns:
        The verdict.
    """
    heads = heads or PredictionHeads(256, 91)
    counts = [
        sum(isinstance(module, nn.Linear) for module in getattr(heads, name).modules())
        for name in ("class_head", "bbox_head")
    ]
    return decide(
        counts[0] > 1,
        f"Linear layers of the class head: {counts[0]}; of the box head: {counts[1]}.",
    )


def strides_of_levels() -> list[int]:
    """The strides of the levels of the multi-scale model, measured on an image of 256 x 256."""
    model = build("r50")
    with torch.no_grad():
        levels = model.input_projection(model.backbone(torch.zeros(1, 3, 256, 256, device="meta")))
    return [256 // level.shape[-1] for level in levels]


def try_features(strides: Callable = strides_of_levels) -> Verdict:
    """Which of the backbone's features become levels; C2 has stride 4, C5 stride 32.

    Args:
        strides: As `strides_of_levels`.

    Returns:
        The verdict.
    """
    found = strides()
    extra, _ = build("r50").input_projection.levels[-1].children()
    assert isinstance(extra, nn.Conv2d)
    return decide(
        found == [4, 8, 16, 32],
        f"The levels have the strides {', '.join(map(str, found))}; C2 would have 4. The last one "
        f"is a convolution of stride {extra.stride[0]} that reads {extra.in_channels:,} channels, "
        "those of C5.",
    )


def try_position_encoding(encode: Callable = sine_position) -> Verdict:
    """Whether the position encoding is a function of the pixel, or of the fraction of the image.

    Args:
        encode: As `sine_position`.

    Returns:
        The verdict.
    """

    def of_column(column: int, width: int) -> Tensor:  # (C,)
        return encode(torch.zeros(1, 6, width, dtype=torch.bool), 128)[0, :, 0, column]

    same_pixel = (of_column(5, 20) - of_column(5, 40)).abs().max().item()
    same_fraction = (of_column(1, 20) - of_column(4, 60)).abs().max().item()  # 1.5/20 and 4.5/60
    return decide(
        same_pixel < 1e-3,
        f"Pixel 5 of a map 20 wide and pixel 5 of one 40 wide differ by up to {same_pixel:.2f}; "
        f"pixels at the same fraction of two maps differ by up to {same_fraction:.2f}. It counts "
        "fractions of the image, times 2π, and so a shift by a pixel depends on the image's size.",
    )


def position_without_level(shape: tuple[int, int]) -> Tensor:
    """What the tokens of a level are told about their position, apart from the level embedding.

    Args:
        shape: (H, W) of the level.

    Returns:
        (C, H, W).
    """
    return sine_position(torch.zeros(1, *shape, dtype=torch.bool), 128)[0]


def objects_found(level_embedding: bool) -> tuple[int, int]:
    """How many objects the trained model finds, with its level embedding or with zeros in it.

    Args:
        level_embedding: Whether it has one.

    Returns:
        Objects found, and objects in the scenes.
    """
    detector = load(shipped_checkpoint()).eval()
    assert isinstance(detector.model, DeformableDETR)
    if not level_embedding:
        nn.init.zeros_(detector.model.level_embedding)
    scenes = held_out_scenes()
    images, targets = zip(*(scenes[index] for index in range(N_SCENES)), strict=True)
    detections = detector.predict([to_floats(image) for image in images])
    counts = count_detections(detections, list(targets))
    return counts.found, counts.objects


def try_without_level_embedding(
    position: Callable = position_without_level, found: Callable = objects_found
) -> Verdict:
    """Whether tokens of two levels differ if nothing but their position is added to them.

    Args:
        position: As `position_without_level`.
        found: As `objects_found`.

    Returns:
        The verdict.
    """
    # Pixel 1 of 6 and pixel 0 of 2 have their centres at 1.5/6 = 0.5/2.
    fine, coarse = position((6, 6))[:, 1, 1], position((2, 2))[:, 0, 0]
    apart = (fine - coarse).abs().max().item()
    (with_it, n_objects), (without, _) = found(True), found(False)
    return decide(
        apart > 1e-3 and without >= with_it,
        f"Two tokens at one place on two levels get positions that differ by {apart:.2f}: without "
        f"it, nothing that is added says which level a token is on. The trained model finds "
        f"{with_it} of {n_objects} objects, and {without} with zeros for its level embedding.",
    )


def heads_and_layers(box_refine: bool) -> tuple[int, int]:
    """How many box heads a decoder has, and how many layers.

    Args:
        box_refine: Whether the layers refine boxes.

    Returns:
        Both numbers.
    """
    decoder = build("r50", box_refine=box_refine).decoder
    return len({id(heads.bbox_head) for heads in decoder.heads}), len(decoder.layers)


def try_independent_heads(count: Callable = heads_and_layers) -> Verdict:
    """Whether each decoder layer has a box head of its own, without and with refinement.

    Args:
        count: As `heads_and_layers`.

    Returns:
        The verdict.
    """
    (plain, layers), (refined, _) = count(False), count(True)
    return decide(
        plain == refined == layers,
        f"{layers} decoder layers have {refined} box heads with iterative refinement; without it "
        f"they have {plain}, which all of them share.",
        refined == layers,
    )


def references_of_the_encoder(seed: int) -> tuple[list[tuple[int, int]], Tensor]:
    """Build a model from a seed, show it an image of noise, and record the encoder's references.

    Args:
        seed: Of the model's parameters and of the image.

    Returns:
        (H, W) of each level, and the reference of each token on its first level (S, 2).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DeformableDETR(DeformableDETRConfig.preset("tiny")).eval()
        image = torch.rand(1, 3, 64, 96)
    with torch.no_grad(), capture(model, "encoder*") as records:
        model(image, torch.zeros(1, 64, 96, dtype=torch.bool))
    return records[0].spatial_shapes, records[0].reference_points[0, :, 0]


def try_predicted_references(references: Callable = references_of_the_encoder) -> Verdict:
    """Whether the encoder's reference points depend on the model, or are the pixels' centres.

    Args:
        references: As `references_of_the_encoder`.

    Returns:
        The verdict.
    """
    (shapes, first), (_, second) = references(0), references(1)
    centres = torch.tensor(
        [((x + 0.5) / w, (y + 0.5) / h) for h, w in shapes for y in range(h) for x in range(w)]
    )
    from_centres = (first - centres).abs().max().item()
    between = (first - second).abs().max().item()
    layers = [m for m in build("r50").queries.modules() if isinstance(m, nn.Linear)]
    return decide(
        between > 1e-3,
        f"The references of two models with different parameters differ by {between:.3f}, and "
        f"those of {len(centres)} tokens differ from the centres of their pixels by "
        f"{from_centres:.3f}. The {len(layers)} linear layer that predicts references belongs to "
        "the decoder's queries.",
    )


def queries_of_decoder(preset: str) -> int:
    """How many queries a model's decoder has.

    Args:
        preset: The name of its configuration.

    Returns:
        Their number.
    """
    return DeformableDETRConfig.preset(preset).n_queries


def try_fewer_queries(count: Callable = queries_of_decoder) -> Verdict:
    """How many queries the decoder has in one stage and in two.

    Args:
        count: As `queries_of_decoder`.

    Returns:
        The verdict.
    """
    one, two = count("r50_refine"), count("r50_two_stage")
    return decide(
        two < one,
        f"The paper's models have {one} queries in one stage and {two} in two. What changes is "
        "where they start: at learned points, or at boxes that the encoder proposes.",
    )


CLAIMS = (
    Claim(16, "The class head is an MLP.", try_class_head),
    Claim(17, "The levels are the backbone's features C2, C3, C4 and C5.", try_features),
    Claim(
        22,
        "The position encoding of pixel x is sin(x / 10000^(2i/d)), and it is "
        "translation-invariant.",
        try_position_encoding,
    ),
    Claim(23, "The level embedding can be dropped.", try_without_level_embedding),
    Claim(25, "The box heads of the decoder layers are independent.", try_independent_heads),
    Claim(
        27,
        "The encoder predicts its reference points with a linear layer.",
        try_predicted_references,
    ),
    Claim(32, "Two stages reduce the number of the decoder's queries.", try_fewer_queries),
)
