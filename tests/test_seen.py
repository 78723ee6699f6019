"""`look`: one line for each picture, of any Deformable DETR; and the gallery of them all."""

import dataclasses

import numpy as np
import pytest
import torch

import ddetr_edu as dd
from ddetr_edu import viz
from ddetr_edu.detector import PictureSize
from ddetr_edu.gallery import EXHIBITS, write_gallery
from ddetr_edu.training.huggingface import save_huggingface

SMALL = dict(num_classes=3, d_model=64, n_heads=2, n_levels=3, n_points=3, n_encoder_layers=2,
             n_decoder_layers=3, d_ffn=37, n_queries=19)  # fmt: skip
PICTURE = torch.rand(3, 59, 83, generator=torch.manual_seed(5))
ALL = ("boxes", "sampling_points", "layers", "reading", "token", "rose", "levels", "paths",
       "proposals", "outside", "statistics")  # fmt: skip


def build(**changes):
    """A small detector, every weight a little shaken, so that layers differ."""
    torch.manual_seed(0)
    model = dd.DeformableDETR(dd.DeformableDETRConfig.preset("tiny", **{**SMALL, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return dd.Detector(model, ["cat", "dog", "cow"], PictureSize(64, 96)).eval()


@pytest.fixture(scope="module")
def seen():
    return dd.look(build(two_stage=True), PICTURE, threshold=0.02)


@pytest.mark.parametrize("kind", ["one stage", "refined", "two stages"])
def test_every_picture_in_one_line(kind):
    detector = build(box_refine=kind != "one stage", two_stage=kind == "two stages")
    seen = dd.look(detector, PICTURE)
    for name in ALL:
        if name == "proposals" and kind != "two stages":
            with pytest.raises(ValueError, match="one stage"):
                seen.proposals()
            continue
        figure, data = getattr(seen, name)()
        assert isinstance(figure, viz.NotebookFigure) and len(data)
        figure.draw_without_rendering()


def test_looking_changes_nothing(seen):
    detector = build(two_stage=True)
    found = detector.predict(PICTURE, threshold=0.0)
    for name, values in found.items():
        assert torch.equal(values, seen.found[name])


def test_the_best_detection_is_the_default_and_its_numbers_are_drawn(seen):
    query = int(seen.found["queries"][0])
    figure, drawn = seen.layers()
    assert len(drawn) == 3 and f"query {query}," in figure.get_suptitle()
    size = np.array([83, 59])
    for i, panel in enumerate(drawn):
        record = seen.records[2 + i]
        weights = np.sort(record.weights[0, query].ravel())
        np.testing.assert_allclose(panel["weights"], weights)
        heaviest = record.locations[0, query].reshape(-1, 2)[record.weights[0, query].argmax()]
        np.testing.assert_allclose(panel["locations"][-1], heaviest.numpy() * size, rtol=1e-5)
        if i:
            np.testing.assert_allclose(panel["entering"], drawn[i - 1]["leaving"])
    np.testing.assert_allclose(
        drawn[-1]["leaving"].clip(0, [83, 59, 83, 59]), seen.found["boxes"][0], rtol=1e-4
    )
    # What is read is what the points weigh: 2 heads, 3 layers.
    _, read = seen.reading()
    for panel, record in zip(read, seen.records[2:], strict=False):
        total = record.weights[0, query].sum((0, 2))
        np.testing.assert_allclose(panel["inside"] + panel["outside"], total, rtol=1e-5)
    assert sum(read[-1]["inside"] + read[-1]["outside"]) == pytest.approx(6)


def test_a_token_is_the_one_at_the_place(seen):
    shapes = seen.records[0].spatial_shapes
    rows, columns = shapes[1]
    figure, drawn = seen.token(x=82.9, y=0.0, level=1)
    token = shapes[0][0] * shapes[0][1] + columns - 1
    assert figure.get_suptitle() == f"token {token}: row 0, column {columns - 1} of level 1"
    x1, y1, x2, y2 = drawn[0]["entering"]
    np.testing.assert_allclose([x1, y1, x2, y2], [83 - 83 / columns, 0, 83, 59 / rows], atol=1e-4)
    reference = seen.records[0].reference_points[0, token, 1]
    np.testing.assert_allclose([(x1 + x2) / 166, (y1 + y2) / 118], reference, rtol=1e-5)


def test_all_detections_once_for_each_query(seen):
    seen = dataclasses.replace(seen, threshold=0.0)
    queries = seen.found["queries"]
    kept = torch.unique(queries)
    _, drawn = seen.paths()
    assert drawn["centres"].shape == (len(kept), 4, 2) and len(kept) < len(queries)
    _, drawn = seen.levels(seen)
    assert drawn["shares"].shape == (2 * len(kept), 3)
    weights = seen.records[-1].weights[0, kept].sum((1, 3)) / 2
    np.testing.assert_allclose(np.sort(drawn["shares"][::2], 0), np.sort(weights, 0), rtol=1e-5)
    boxes = seen.found["boxes"]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    best = [int((seen.found["queries"] == query).nonzero()[0]) for query in kept]
    assert seen.largest() == kept[areas[best].argmax()]
    nothing = dataclasses.replace(seen, threshold=1.1)  # at least the best is shown
    assert nothing.paths()[1]["centres"].shape[0] == 1


def test_rose_of_a_layer_by_number_and_by_name(seen):
    _, drawn = seen.rose("encoder.layers.1.self_attn")
    np.testing.assert_allclose(drawn["edges"][:4], [0, 1.5, 3, 6])  # pixels: half, all, twice P
    _, last = seen.rose()
    np.testing.assert_allclose(last["edges"][:4], [0, 0.5, 1, 2])  # half box sides
    _, named = seen.rose("decoder.layers.2.cross_attn")
    np.testing.assert_array_equal(last["shares"], named["shares"])


@pytest.mark.parametrize("call, message", [
    (lambda s: s.layers(19), "query 19 does not exist; the model has 0 to 18"),
    (lambda s: s.layers(-1), "query -1 does not exist"),
    (lambda s: s.sampling_points(layer=3), "layer 3 does not exist; the decoder has 0 to 2"),
    (lambda s: s.levels(layer=-4), "layer -4 does not exist"),
    (lambda s: s.rose("encoder"), '"encoder" is none of encoder.layers.0.self_attn'),
    (lambda s: s.token(83, 1), "no token at x 83, y 1"),
    (lambda s: s.token(level=3), "levels are 0 to 2"),
])  # fmt: skip
def test_what_does_not_exist_is_named(seen, call, message):
    with pytest.raises(ValueError, match=message):
        call(seen)


def test_only_the_decoder_may_be_recorded():
    seen = dd.look(build(), PICTURE, layers="decoder*")
    assert len(seen.records) == 3
    seen.reading()
    with pytest.raises(ValueError, match="no attention of the encoder was recorded"):
        seen.token()
    detr = dd.Detector(dd.DETR(dd.DETRConfig.preset("detr_tiny", num_classes=2)), ["a", "b"])
    with pytest.raises(ValueError, match="a DETR has no sampling points"):
        dd.look(detr, PICTURE)


def test_a_converted_hugging_face_model_looks_the_same(seen, tmp_path):
    backbone = dict(backbone="resnet18", two_stage=True)
    detector = build(**backbone)
    save_huggingface(tmp_path / "hf", detector)
    loaded = dd.load(tmp_path / "hf")
    loaded.size = detector.size
    ours, theirs = dd.look(detector, PICTURE), dd.look(loaded, PICTURE)
    for name in ("layers", "reading"):
        a, b = getattr(ours, name)()[1], getattr(theirs, name)()[1]
        for mine, same in zip(a, b, strict=True):
            for key in ("weights", "locations", "inside", "outside"):
                if key in mine:
                    np.testing.assert_allclose(mine[key], same[key], atol=1e-4)


def test_the_gallery_has_a_sentence_for_every_picture(seen, tmp_path):
    with pytest.raises(ValueError, match="nothing says what is in this picture"):
        seen.matching()
    target = {"boxes": torch.tensor([[5.0, 6, 40, 50]]), "labels": torch.tensor([1])}
    known = dataclasses.replace(seen, target=target)
    *pictures, page = write_gallery(tmp_path / "gallery", known, [seen], "A model looks.")
    assert [p.stem for p in pictures] == [exhibit.name for exhibit in EXHIBITS]
    text = page.read_text()
    assert page == tmp_path / "gallery.md" and "A model looks." in text
    for exhibit, picture in zip(EXHIBITS, pictures, strict=True):
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert f"(gallery/{picture.name})" in text and exhibit.how_to_read in text
        assert exhibit.how_to_read.endswith(".") and exhibit.call.startswith("seen.")
