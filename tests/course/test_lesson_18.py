"""Lesson 18: what its text relies on, its exercises in other styles, and its planted faults."""

import functools
import itertools
import json
import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import ddetr_edu as dd
from ddetr_edu.attention.discrete import ms_deform_attn_discrete
from ddetr_edu.checkpoints.deformable_detr_names import deduce_config, from_official
from ddetr_edu.checkpoints.shipped import shipped_checkpoint
from ddetr_edu.course import checks
from ddetr_edu.course.exercises import lesson_18_faults as faults
from ddetr_edu.course.exercises.lesson_18_discrete import random_arguments
from ddetr_edu.course.official_layout import count_parts, official_layout
from ddetr_edu.course.sampling_rules import half_a_pixel_off, read_grid, sampling_by
from ddetr_edu.data.shapes import held_out_scenes
from ddetr_edu.evaluation.coco_metrics import detect, score, summarize
from ddetr_edu.files import find_shipped


def spread(shapes):
    """Tensors of these shapes, without memory: {name: tensor}."""
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}


# The exercises.


def test_the_solutions_agree_with_the_library():
    for (shapes,) in checks.variant.cases().values():
        config = deduce_config(from_official(spread(shapes)), n_heads=2)
        kind = config.box_refine + config.two_stage
        queries = 0 if config.two_stage else config.n_queries
        expected = (config.n_levels, config.num_classes, queries, kind)
        assert checks.variant.solution(shapes) == expected
    for (state,) in checks.convert_keys.cases().values():
        expected = from_official(state)
        found = checks.convert_keys.solution(state)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    for arguments in checks.discrete_attention.cases().values():
        expected = ms_deform_attn_discrete(*arguments)
        torch.testing.assert_close(checks.discrete_attention.solution(*arguments), expected)


def test_right_answers_in_other_styles():
    def variant_by_counting(shapes):
        names = list(shapes)
        levels = len([name for name in names if re.fullmatch(r"input_proj\.\d\.0\.bias", name)])
        kind = any("decoder.bbox_embed" in n for n in names) + any("pos_trans." in n for n in names)
        queries = shapes.get("query_embed.weight", [0])[0]
        return np.array([levels, shapes["class_embed.0.weight"][0], queries, kind])

    def keys_by_replacing(state):
        result = {}
        for name, tensor in state.items():
            new = name.replace("transformer.", "").replace("linear", "ffn.linear")
            if "decoder" in new:
                new = new.replace("norm1", "cross_attn_norm").replace("norm2", "self_attn_norm")
                new = new.replace("norm3", "ffn_norm")
            else:
                new = new.replace("norm1", "self_attn_norm").replace("norm2", "ffn_norm")
            result[new] = tensor.clone()
        return dict(sorted(result.items()))

    def discrete_by_loops(value, shapes, locations, weights):
        n, lq, m, levels, points, _ = locations.shape
        result = np.zeros((n, lq, m, value.shape[-1]))
        for i, q, h, l, p in itertools.product(*map(range, (n, lq, m, levels, points))):
            height, width = shapes[l]
            x, y = locations[i, q, h, l, p].tolist()
            column, row = math.floor(x * width), math.floor(y * height)
            if 0 <= column < width and 0 <= row < height:
                token = sum(a * b for a, b in shapes[:l]) + row * width + column
                result[i, q, h] += (weights[i, q, h, l, p] * value[i, token, h]).numpy()
        return result.reshape(n, lq, -1)

    def discrete_by_grid_sample(value, shapes, locations, weights):
        n, lq, m, _, points, _ = locations.shape
        result = 0
        for l, tokens in enumerate(value.split([h * w for h, w in shapes], dim=1)):
            maps = tokens.permute(0, 2, 3, 1).reshape(n * m, -1, *shapes[l])
            grid = 2 * locations[:, :, :, l].transpose(1, 2).flatten(0, 1) - 1
            samples = F.grid_sample(maps, grid, "nearest", "zeros", False)
            weight = weights[:, :, :, l].transpose(1, 2).reshape(n * m, 1, lq, points)
            result = result + (samples * weight).sum(-1)
        return result.view(n, -1, lq).transpose(1, 2)

    for exercise, answer in [
        (checks.variant, variant_by_counting),
        (checks.convert_keys, keys_by_replacing),
        (checks.discrete_attention, discrete_by_loops),
        (checks.discrete_attention, discrete_by_grid_sample),
    ]:
        result = exercise.check(answer)
        assert result.passed, result.message


def test_the_solution_and_each_mistake_in_names():
    exercise = checks.convert_keys
    assert exercise.check(exercise.solution).passed
    for mistake, function in exercise.mistakes.items():
        passed, message, _ = exercise.check(function)
        assert not passed
        assert message.endswith(f"it looks as if {mistake}")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (lambda state: None, "returned None: is a `return` missing?"),
        (lambda state: list(state), "an object of the type list; a dictionary was expected"),
        (lambda state: dict.fromkeys(state, 1), "names and tensors were expected"),
        (lambda state: dict(enumerate(state.values())), "names and tensors were expected"),
        (lambda state: {}, "was lost, or its tensor was changed; expected `encoder.layers.0."),
        (
            lambda state: {n: 2 * t for n, t in checks.convert_keys.solution(state).items()},
            "was lost, or its tensor was changed",
        ),
        (
            lambda state: {n: t[:1] for n, t in checks.convert_keys.solution(state).items()},
            "was lost, or its tensor was changed",
        ),
        (
            lambda state: {**checks.convert_keys.solution(state), "": torch.zeros(1) - 1},
            "16 entries were expected, got 17",
        ),
        (
            lambda state: (checks.convert_keys.solution(state), state.clear())[0],
            "changed its argument `state` in place",
        ),
        (lambda state: state, "became `transformer.encoder.layers.0."),
    ],
)
def test_wrong_names_are_explained(answer, expected):
    passed, message, _ = checks.convert_keys.check(answer)
    assert not passed
    assert expected in message
    assert "input: state, a dictionary with " in message or "returned" in message


def test_no_two_cases_have_as_many_names():
    counts = [len(state) for (state,) in checks.convert_keys.cases().values()]
    assert len(set(counts)) == len(counts) >= 7


# What the text relies on.


@pytest.fixture(scope="module")
def layouts():
    presets = ("r50_single_scale", "r50", "r50_refine", "r50_two_stage")
    return {preset: official_layout(dd.DeformableDETRConfig.preset(preset)) for preset in presets}


def test_names_in_official_files(layouts):
    assert [len(layout) for layout in layouts.values()] == [549, 561, 597, 630]
    counts = {preset: count_parts(layout) for preset, layout in layouts.items()}
    assert sum(part.repeated for part in counts["r50"].values()) == 40
    assert counts["r50"]["backbone"].names == 265
    assert counts["r50"]["heads"].repeated == 40  # and so all of them
    for parts, layout in zip(counts.values(), layouts.values(), strict=True):
        assert sum(part.names for part in parts.values()) == len(layout)
        tensors = {id(tensor): tensor.numel() for tensor in layout.values()}
        assert sum(part.numbers for part in parts.values()) == sum(tensors.values())
    heads = [parts["heads"].names for parts in counts.values()]
    assert heads[0] == heads[1] < heads[2] < heads[3]
    with pytest.raises(ValueError, match=r"module\.x belongs to no part"):
        count_parts({"module.x": torch.zeros(1)})


def test_what_can_be_read_off_shapes(layouts):
    r50 = layouts["r50"]
    expected = {
        "transformer.level_embed": (4, 256),
        "transformer.encoder.layers.0.self_attn.attention_weights.weight": (128, 256),
        "transformer.encoder.layers.0.self_attn.sampling_offsets.weight": (256, 256),
        "transformer.decoder.layers.0.self_attn.in_proj_weight": (768, 256),
        "query_embed.weight": (300, 512),
        "transformer.reference_points.weight": (2, 256),
        "class_embed.0.weight": (91, 256),
        "bbox_embed.0.layers.2.weight": (4, 256),
        "input_proj.0.0.weight": (256, 512, 1, 1),
        "input_proj.3.0.weight": (256, 2048, 3, 3),
    }
    assert {name: tuple(r50[name].shape) for name in expected} == expected


def test_the_screening_is_of_one_seed():
    runs = json.loads(find_shipped("benchmarks/results/ablation.json").read_text())["runs"]
    assert all(run["seed"] == 0 and run["minutes"] == 2 for run in runs)
    found = {run["variant"]: run["AP"] for run in runs}
    assert found["one stage, no box refinement"] < 0.05 < 0.1 < found["full recipe"]


def test_what_nearest_pixels_do_to_the_trained_model():
    detector, scenes = dd.load(shipped_checkpoint()), held_out_scenes().first(24)

    def precision(rule, *parts):
        with sampling_by(rule, *parts):
            results = detect(detector, scenes, show_progress=False)
        return summarize(score(results, scenes))[0]["AP"]

    decoder = detector.model.decoder
    assert precision(ms_deform_attn_discrete) == pytest.approx(0.773, abs=0.003)
    assert precision(ms_deform_attn_discrete, decoder) == pytest.approx(0.508, abs=0.003)
    assert precision(half_a_pixel_off, decoder) == pytest.approx(0.182, abs=0.003)
    assert {layer.cross_attn.backend for layer in decoder.layers} == {"auto"}


def test_swapped_norms_show_only_if_norms_differ():
    config = dd.DeformableDETRConfig.preset("tiny", n_decoder_layers=1)
    torch.manual_seed(0)
    model = dd.DeformableDETR(config).eval()
    images, padding_mask = torch.rand(1, 3, 64, 96), torch.zeros(1, 64, 96, dtype=torch.bool)

    def swap(state):
        a, b = "decoder.layers.0.self_attn_norm.", "decoder.layers.0.cross_attn_norm."
        other = {x + kind: y + kind for x, y in ((a, b), (b, a)) for kind in ("weight", "bias")}
        return {other.get(name, name): tensor.clone() for name, tensor in state.items()}

    for differ in (False, True):
        if differ:
            torch.nn.init.uniform_(model.decoder.layers[0].self_attn_norm.weight, 0.5, 1.5)
        wrong = dd.DeformableDETR(config).eval()
        wrong.load_state_dict(swap(model.state_dict()))
        with torch.no_grad():
            right, found = (each(images, padding_mask).logits for each in (model, wrong))
        assert torch.equal(found, right) != differ


# The rules of reading.


def test_half_a_pixel_off_is_what_it_says():
    value, shapes, locations, weights = random_arguments(2, 3, 2, 4, 3, [(2, 7), (5, 3)], seed=1)
    expected = torch.zeros(2, 3, 2, 3, dtype=torch.float64)
    for n, q, m, l, p in itertools.product(*map(range, weights.shape)):
        height, width = shapes[l]
        x, y = locations[n, q, m, l, p].tolist()
        column = min(max(math.floor(x * width + 0.5), 0), width - 1)
        row = min(max(math.floor(y * height + 0.5), 0), height - 1)
        token = (0, 14)[l] + row * width + column
        expected[n, q, m] += weights[n, q, m, l, p] * value[n, token, m]
    found = half_a_pixel_off(value, shapes, locations, weights)
    torch.testing.assert_close(found, expected.flatten(2))


def test_a_grid_is_read_row_by_row():
    feature_map = torch.tensor([[1.0, 2, 3], [4, 5, 6]])
    grid = read_grid(ms_deform_attn_discrete, feature_map, margin=0.0, points_per_side=6)
    expected = feature_map.repeat_interleave(3, 0).repeat_interleave(2, 1)
    assert torch.equal(grid, expected)
    framed = read_grid(ms_deform_attn_discrete, feature_map, margin=0.5, points_per_side=12)
    assert torch.equal(framed[3:9, 3:9], expected)
    assert framed.sum() == expected.sum()


# The planted faults.


def test_only_the_right_words_pass():
    right = dict(faults.VERSIONS)
    assert checks.square_maps.check(right).passed
    for version, word in itertools.product(right, faults.FAULTS):
        if word != right[version]:
            passed, message, _ = checks.square_maps.check({**right, version: word})
            assert not passed
            assert faults.SEEN[version] in message
            assert f'"{right[version]}"' not in message
            assert faults.FAULTS[right[version]].means not in message


def read(word, height, width, outside):
    """Whether a fault reads what is right, at all locations inside the map or around it."""
    feature_map = 1 + torch.arange(height * width, dtype=torch.float32).view(height, width)
    margin = 0.25 if outside else 0.0
    rule = functools.partial(faults.read_version, "A")
    versions = {**faults.VERSIONS, "A": word}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faults, "VERSIONS", versions)
        found = read_grid(rule, feature_map, margin)
    return torch.equal(found, read_grid(ms_deform_attn_discrete, feature_map, margin))


def test_on_which_maps_each_fault_shows():
    """Inside a square, a wide and a tall map; then likewise, with what lies around the map."""
    maps = ((4, 4), (2, 6), (6, 2))
    shows = {
        word: "".join(
            "x" if read(word, *size, outside) else "." for outside in (False, True) for size in maps
        )
        for word in faults.FAULTS
    }
    assert shows == {
        "nothing": "xxxxxx",
        "x and y swapped": "......",
        "sizes swapped": "x..x..",
        "one limit": "x.xx..",
        "row length": "x..x..",
        "half a pixel": "......",
        "towards zero": "xxx...",
        "clamped": "xxx...",
    }
    assert set(faults.VERSIONS.values()) < set(faults.FAULTS)
    assert len(set(faults.VERSIONS.values())) == 5


def test_what_the_solution_says_of_each_version():
    wide = torch.arange(1.0, 13).view(2, 6)

    def grid(version, feature_map, margin=0.0):
        return read_grid(functools.partial(faults.read_version, version), feature_map, margin)

    stretched = grid("A", wide)
    assert set(stretched[0].tolist()) == {1, 2} and (stretched[20:] == 0).all()
    cut = grid("C", wide)
    assert set(cut.unique().tolist()) == {0, 1, 2, 7, 8} and (cut[:, 20:] == 0).all()
    tall = torch.arange(1.0, 13).view(6, 2)
    beside = grid("C", tall, 0.25)
    assert beside[15, 55] == 3  # to the right of row 0: the first pixel of row 1
    early = grid("E", wide)
    assert set(early[0].tolist()) == {1, 2, 3, 4, 5, 6}
    assert set(early[-1].tolist()) == {3, 4, 5, 6, 7, 8}
    assert (grid("E", tall)[30:] == 0).all()
