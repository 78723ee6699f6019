"""A picture under a detector: the look is what the model does, and a moved query is another run."""

import sys

import pytest
import torch

import ddetr_edu as dd
from ddetr_edu.attention.interpolation import bilinear_sample
from ddetr_edu.detector import PictureSize, make_batch
from ddetr_edu.inspector import Exploration, value_lengths

NAMES = ["cat", "dog", "cow"]
M, L, P, LQ = 2, 3, 5, 7
PICTURE = torch.rand(3, 41, 67, generator=torch.Generator().manual_seed(3))


def detector(**changes) -> dd.Detector:
    torch.manual_seed(0)
    small = dict(d_model=32, n_heads=M, n_levels=L, n_points=P, n_encoder_layers=1,
                 n_decoder_layers=3, d_ffn=11, n_queries=LQ, num_classes=3)  # fmt: skip
    model = dd.DeformableDETR(dd.DeformableDETRConfig.preset("tiny", **{**small, **changes}))
    with torch.no_grad():  # at the official start the boxes never move
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return dd.Detector(model, NAMES, PictureSize(64, 96)).eval()


KINDS = {
    "points": dict(box_refine=False),
    "refined": dict(box_refine=True),
    "two stages": dict(box_refine=True, two_stage=True),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return detector(**KINDS[request.param])


def test_the_look_is_what_the_model_did(kind):
    batch = make_batch([PICTURE], kind.size)
    with torch.no_grad(), dd.capture(kind.model.decoder) as records:
        predictions = kind.model(*batch)
    look = Exploration(kind, PICTURE).look()
    for layer, (said, record) in enumerate(
        zip([*predictions.aux, predictions], records, strict=True)
    ):
        scores, classes = said.scores()[0].max(-1)
        size = record.reference_points.shape[-1]
        for mine, its in (
            (look.boxes, said.boxes[0]),
            (look.scores, scores),
            (look.classes, classes),
            (look.locations, record.locations[0]),
            (look.weights, record.weights[0]),
            (look.references[..., :size], record.reference_points[0, :, 0]),
        ):
            torch.testing.assert_close(torch.from_numpy(mine[layer]), its)
        assert (look.references[layer, :, size:] == 0).all()  # a point has no sides


def test_the_length_of_what_a_point_reads_is_that_of_the_definition():
    torch.manual_seed(1)
    attention = dd.MSDeformAttn(M * 4, M, 2, P)
    shapes, memory = [(5, 3), (2, 7)], torch.rand(1, 29, M * 4)
    locations = torch.rand(1, 3, M, 2, P, 2) * 1.4 - 0.2
    with torch.no_grad():
        found = value_lengths(attention, memory, shapes, locations)
        value = attention.value_proj(memory)[0].unflatten(-1, (M, 4))  # (S, M, D)
    assert found.shape == (1, 3, M, 2, P)
    for q, m, l, p in torch.cartesian_prod(*map(torch.arange, found.shape[1:])).tolist():
        start, (height, width) = (0, 15)[l], shapes[l]
        of_head = value[start : start + height * width, m].unflatten(0, (height, width))
        read = bilinear_sample(of_head, *locations[0, q, m, l, p])
        torch.testing.assert_close(found[0, q, m, l, p], read.norm())


def test_a_query_that_is_not_moved_does_the_same(kind):
    seen = Exploration(kind, PICTURE)
    look = seen.look()
    x, y = look.references[0, 4, :2].tolist()
    for mine, its in zip(vars(seen.moved(4, x, y)).values(), vars(look.of([4])).values(),
                         strict=True):  # fmt: skip
        torch.testing.assert_close(torch.from_numpy(mine), torch.from_numpy(its))


def test_a_moved_query_starts_where_it_was_put_and_ends_elsewhere(kind):
    seen = Exploration(kind, PICTURE)
    before, after = seen.look(), seen.moved(4, 0.875, 0.125)
    assert after.references[0, 0, :2].tolist() == [0.875, 0.125]
    assert (after.references[0, 0, 2:] == before.references[0, 4, 2:]).all()
    assert abs(after.boxes[-1, 0] - before.boxes[-1, 4]).max() > 1e-3
    assert abs(after.weights[1, 0] - before.weights[1, 4]).max() > 1e-6
    steps = [x.locations[0, q] - x.references[0, q, :2] for x, q in ((before, 4), (after, 0))]
    if seen.model.config.two_stage:  # where it starts is also what it asks
        assert abs(steps[0] - steps[1]).max() > 1e-4
    else:
        torch.testing.assert_close(*map(torch.from_numpy, steps), rtol=0, atol=1e-6)
    for mine, its in zip(vars(before).values(), vars(seen.look()).values(), strict=True):
        assert (mine == its).all()  # and nothing stays behind


def test_a_page_in_one_line(tmp_path):
    dd.write_inspector(tmp_path / "out.html", detector(), PICTURE)
    page = (tmp_path / "out.html").read_text()
    assert "<title>a picture</title>" in page and '"names":["cat","dog","cow"]' in page


def test_a_detr_has_nothing_to_explore():
    model = dd.DETR(dd.DETRConfig.preset("detr_tiny", num_classes=3))
    with pytest.raises(ValueError, match="a DETR has no sampling points"):
        Exploration(dd.Detector(model, NAMES), PICTURE)


# The widget, as Python sees it; tests/viz/test_page.py sees it in a browser ----------------------


@pytest.fixture
def widget(monkeypatch):
    pytest.importorskip("anywidget")
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    widget = dd.explore(detector(), PICTURE)
    sent = []
    monkeypatch.setattr(widget, "send", sent.append)
    widget.hear = lambda message: widget._handle_custom_msg(message, [])
    return widget, sent, shown


def test_the_widget_sends_its_data_when_asked_and_a_moved_query(widget):
    widget, sent, (figure,) = widget
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert repr(widget) == "an inspector, alive while the notebook runs"  # the same in every run
    assert len(str(widget.get_state())) < 60_000  # what a saved notebook may hold
    widget.hear({"ready": True})
    assert set(sent[0]["data"]["queries"]) == set(range(LQ))
    widget.hear({"query": 4, "x": 0.5, "y": 0.25})
    assert sent[1]["query"] == 4 and sent[1]["look"]["weights"]["shape"] == [1, 3, M, L, P]


def test_without_anywidget_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(ValueError, match="pip install anywidget"):
        dd.explore(detector(), PICTURE)
