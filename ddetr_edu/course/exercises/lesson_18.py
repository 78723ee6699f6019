"""The ★ exercise of lesson 18: which model an official state dict belongs to.

That about its names is in `lesson_18_names`, that about discrete sampling in `lesson_18_discrete`,
and that about planted faults in `lesson_18_faults`.
"""

from collections.abc import Callable
from functools import cache

from ddetr_edu.checkpoints.deformable_detr_names import deduce_config
from ddetr_edu.course.exercise import Cases, Exercise
from ddetr_edu.course.official_layout import official_layout
from ddetr_edu.models.config import DeformableDETRConfig


def my_variant(shapes):
    """{name: shape} of an official state dict -> (levels, classes, queries, kind)"""
    n_levels = shapes["transformer.level_embed"][0]
    n_classes = shapes["class_embed.0.bias"][0]
    if "transformer.enc_output.weight" in shapes:
        return n_levels, n_classes, 0, 2
    n_queries = shapes["query_embed.weight"][0]
    refines = "transformer.decoder.bbox_embed.0.layers.0.bias" in shapes
    return n_levels, n_classes, n_queries, 1 if refines else 0


@cache
def _shapes_of(**changes) -> dict[str, tuple[int, ...]]:
    """The names and shapes in an official file of a small model."""
    small = dict(backbone="resnet18", n_encoder_layers=1, n_decoder_layers=2, d_ffn=48, n_heads=2)
    config = DeformableDETRConfig(**{**small, **changes})
    return {name: tuple(tensor.shape) for name, tensor in official_layout(config).items()}


def _variants() -> Cases:
    refined, staged = dict(box_refine=True), dict(box_refine=True, two_stage=True)
    models = {
        "one stage, no refinement": dict(d_model=64, num_classes=91, n_queries=300),
        "with refinement": dict(d_model=64, num_classes=91, n_queries=300, **refined),
        "two stages": dict(d_model=64, num_classes=91, **staged),
        "one level": dict(n_levels=1, d_model=32, num_classes=12, n_queries=100),
        "one level, refined": dict(n_levels=1, d_model=96, num_classes=7, n_queries=50, **refined),
        "five levels": dict(n_levels=5, d_model=32, num_classes=21, n_queries=30, **refined),
        "six levels, two stages": dict(n_levels=6, d_model=64, num_classes=2, **staged),
        "one class, one query": dict(n_levels=3, d_model=32, num_classes=1, n_queries=1),
        "one class, two stages": dict(n_levels=4, d_model=96, num_classes=1, **staged),
        "three decoder layers": dict(
            n_levels=3, d_model=32, num_classes=5, n_queries=40, n_decoder_layers=3
        ),
    }
    return {name: (_shapes_of(**changes),) for name, changes in models.items()}


def variant_by(change: Callable) -> Callable:
    """Variants that are changed afterwards.

    Args:
        change: A function (shapes, levels, classes, queries, kind) -> the four numbers.

    Returns:
        A function (shapes) -> the four numbers.
    """
    return lambda shapes: change(shapes, *my_variant(shapes))


variant = Exercise(
    my_variant,
    _variants,
    {
        "levels is the number of channels; `level_embed` is (L, C)": variant_by(
            lambda shapes, levels, *rest: (shapes["transformer.level_embed"][1], *rest)
        ),
        "levels counts every entry of `input_proj`, and each level has four of them": variant_by(
            lambda shapes, levels, *rest: (4 * levels, *rest)
        ),
        "levels leaves out those made by strided convolutions; they are levels, too": variant_by(
            lambda shapes, levels, *rest: (min(levels, 3), *rest)
        ),
        "classes is one too few; every output is a class here, none means no object": variant_by(
            lambda shapes, levels, classes, *rest: (levels, classes - 1, *rest)
        ),
        "classes is one too many; there is no output for no object": variant_by(
            lambda shapes, levels, classes, *rest: (levels, classes + 1, *rest)
        ),
        "classes is the number of channels; `class_embed.0.weight` is (K, C)": variant_by(
            lambda shapes, levels, classes, *rest: (
                levels,
                shapes["class_embed.0.weight"][1],
                *rest,
            )
        ),
        "queries is the length of a query's vector; `query_embed.weight` is (Lq, 2 C)": variant_by(
            lambda shapes, levels, classes, queries, kind: (
                levels,
                classes,
                shapes.get("query_embed.weight", (0, 0))[1],
                kind,
            )
        ),
        "queries is 300 where the file does not say; return 0 there": variant_by(
            lambda shapes, levels, classes, queries, kind: (levels, classes, queries or 300, kind)
        ),
        "several heads were taken for refinement; without it one head is saved again for each"
        " layer": variant_by(
            lambda shapes, levels, classes, queries, kind: (
                levels,
                classes,
                queries,
                max(kind, int("bbox_embed.1.layers.0.bias" in shapes)),
            )
        ),
        "two stages were not told from one stage with refinement": variant_by(
            lambda shapes, levels, classes, queries, kind: (levels, classes, queries, min(kind, 1))
        ),
        "refinement was not noticed: its box heads are saved under the decoder's name as well": (
            variant_by(
                lambda shapes, levels, classes, queries, kind: (
                    levels,
                    classes,
                    queries,
                    0 if kind == 1 else kind,
                )
            )
        ),
        "kind is always 0; `in` finds only whole names, with `.weight` or `.bias`": variant_by(
            lambda shapes, levels, classes, queries, kind: (levels, classes, queries, 0)
        ),
        "kind is only whether there are two stages; refinement is 1, and two stages are 2": (
            variant_by(
                lambda shapes, levels, classes, queries, kind: (
                    levels,
                    classes,
                    queries,
                    int(kind == 2),
                )
            )
        ),
    },
    library=(deduce_config,),
)
