"""A session holds what the model did, and a moved query is another run of the decoder."""

import sys

import pytest
import torch

import ddetr_edu as dd
from ddetr_edu.analysis.inspector import InspectorSession, value_norms
from ddetr_edu.analysis.trace import DetectionTrace
from ddetr_edu.attention.interpolation import bilinear_sample
from ddetr_edu.models.config import ResizeConfig
from ddetr_edu.models.preprocessing import make_batch
from ddetr_edu.viz.inspector_page import DecoderTrace

NAMES = ["cat", "dog", "cow"]
M, L, P, LQ = 2, 3, 5, 7
IMAGE = torch.rand(3, 41, 67, generator=torch.Generator().manual_seed(3))


def detector(**changes) -> dd.Detector:
    torch.manual_seed(0)
    small = dict(
        d_model=32,
        n_heads=M,
        n_levels=L,
        n_points=P,
        n_encoder_layers=1,
        n_decoder_layers=3,
        d_ffn=11,
        n_queries=LQ,
        num_classes=3,
    )
    model = dd.DeformableDETR(dd.DeformableDETRConfig.preset("tiny", **{**small, **changes}))
    with torch.no_grad():  # at the official initialisation the boxes never move
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return dd.Detector(model, NAMES, ResizeConfig(64, 96)).eval()


KINDS = {
    "points": dict(box_refine=False),
    "refined": dict(box_refine=True),
    "two stages": dict(box_refine=True, two_stage=True),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return detector(**KINDS[request.param])


def session_of(detector: dd.Detector) -> InspectorSession:
    return InspectorSession(dd.trace(detector, IMAGE, layers="decoder*"))


def test_the_trace_is_what_the_model_did(kind):
    batch = make_batch([IMAGE], kind.resize)
    with torch.no_grad(), dd.capture(kind.model.decoder) as records:
        predictions = kind.model(*batch)
    trace = session_of(kind).decoder_trace
    for layer, (prediction, record) in enumerate(
        zip([*predictions.aux, predictions], records, strict=True)
    ):
        scores, classes = prediction.scores()[0].max(-1)
        size = record.reference_points.shape[-1]
        for actual, expected in (
            (trace.boxes, prediction.boxes[0]),
            (trace.scores, scores),
            (trace.classes, classes),
            (trace.locations, record.locations[0]),
            (trace.weights, record.weights[0]),
            (trace.references[..., :size], record.reference_points[0, :, 0]),
        ):
            torch.testing.assert_close(torch.from_numpy(actual[layer]), expected)
        assert (trace.references[layer, :, size:] == 0).all()  # a point has no sides


def test_a_trace_with_the_encoder_gives_the_same_session_and_one_without_a_layer_none(kind):
    decoder_only = session_of(kind).decoder_trace
    with_encoder = InspectorSession(dd.trace(kind, IMAGE)).decoder_trace
    assert equal(decoder_only, with_encoder)
    with pytest.raises(ValueError, match="2 of the 3 decoder layers were recorded"):
        InspectorSession(dd.trace(kind, IMAGE, layers=["decoder.layers.0*", "decoder.layers.2*"]))
    with pytest.raises(ValueError, match="no attention of the decoder was recorded"):
        InspectorSession(dd.trace(kind, IMAGE, layers="encoder*"))


def equal(one: DecoderTrace, other: DecoderTrace) -> bool:
    pairs = zip(vars(one).values(), vars(other).values(), strict=True)
    return all((a == b).all() for a, b in pairs)


def test_value_norms_are_those_of_the_definition():
    torch.manual_seed(1)
    attention = dd.MSDeformAttn(M * 4, M, 2, P)
    shapes, memory = [(5, 3), (2, 7)], torch.rand(1, 29, M * 4)
    locations = torch.rand(1, 3, M, 2, P, 2) * 1.4 - 0.2
    with torch.no_grad():
        norms = value_norms(attention, memory, shapes, locations)
        value = attention.value_proj(memory)[0].unflatten(-1, (M, 4))  # (S, M, D)
    assert norms.shape == (1, 3, M, 2, P)
    for q, m, l, p in torch.cartesian_prod(*map(torch.arange, norms.shape[1:])).tolist():
        start, (height, width) = (0, 15)[l], shapes[l]
        of_head = value[start : start + height * width, m].unflatten(0, (height, width))
        sampled = bilinear_sample(of_head, *locations[0, q, m, l, p])
        torch.testing.assert_close(norms[0, q, m, l, p], sampled.norm())


def test_a_query_that_is_moved_nowhere_does_the_same(kind):
    session = session_of(kind)
    x, y = session.decoder_trace.references[0, 4, :2].tolist()
    for actual, expected in zip(
        vars(session.move_query(4, x, y)).values(),
        vars(session.decoder_trace.select([4])).values(),
        strict=True,
    ):
        torch.testing.assert_close(torch.from_numpy(actual), torch.from_numpy(expected))


def test_a_moved_query_starts_where_it_was_put_and_ends_elsewhere(kind):
    session = session_of(kind)
    before, after = session.decoder_trace, session.move_query(4, 0.875, 0.125)
    assert after.references[0, 0, :2].tolist() == [0.875, 0.125]
    assert (after.references[0, 0, 2:] == before.references[0, 4, 2:]).all()
    assert abs(after.boxes[-1, 0] - before.boxes[-1, 4]).max() > 1e-3
    assert abs(after.weights[1, 0] - before.weights[1, 4]).max() > 1e-6
    offsets = [x.locations[0, q] - x.references[0, q, :2] for x, q in ((before, 4), (after, 0))]
    if kind.model.config.two_stage:  # its content and position depend on where it starts
        assert abs(offsets[0] - offsets[1]).max() > 1e-4
    else:
        torch.testing.assert_close(*map(torch.from_numpy, offsets), rtol=0, atol=1e-6)
    # And nothing stays behind: the decoder, run again, does what it did.
    again = session.trace.rerun_decoder()
    for record, first in zip(again, session.trace.records, strict=True):
        assert record.name == first.name and torch.equal(record.locations, first.locations)
    assert torch.equal(again.decoder[0].boxes[-1], session.trace.records.decoder[0].boxes[-1])


def test_a_page_in_one_line(tmp_path):
    dd.write_inspector(tmp_path / "out.html", detector(), IMAGE)
    page = (tmp_path / "out.html").read_text()
    assert "<title>an image</title>" in page and '"names":["cat","dog","cow"]' in page


def test_a_detr_has_nothing_to_explore(tmp_path):
    model = dd.DETR(dd.DETRConfig.preset("detr_tiny", num_classes=3))
    with pytest.raises(ValueError, match="a DETR, which has no sampling points"):
        dd.write_inspector(tmp_path / "out.html", dd.Detector(model, NAMES), IMAGE)
    assert list(tmp_path.iterdir()) == []


# The widget, as Python sees it; tests/viz/test_page.py tests it in a browser ----------------------


@pytest.fixture
def widget(monkeypatch):
    pytest.importorskip("anywidget")
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    widget = dd.explore(detector(), IMAGE)
    sent = []
    monkeypatch.setattr(widget, "send", sent.append)
    widget.receive = lambda message: widget._handle_custom_msg(message, [])
    return widget, sent, shown


def test_the_widget_sends_its_data_and_moved_queries_when_asked(widget):
    widget, sent, (figure,) = widget
    assert figure._repr_png_()[0].startswith(b"\x89PNG")
    assert repr(widget) == "an inspector, which is interactive while the notebook runs"
    assert len(str(widget.get_state())) < 60_000  # what a saved notebook may hold
    widget.receive({"ready": True})
    assert set(sent[0]["data"]["queries"]) == set(range(LQ))
    widget.receive({"id": 17, "query": 4, "x": 0.5, "y": 0.25})
    assert sent[1]["id"] == 17 and sent[1]["trace"]["weights"]["shape"] == [1, 3, M, L, P]


def test_the_still_figure_is_of_the_query_that_the_widget_opens_on(monkeypatch):
    pytest.importorskip("anywidget")
    monkeypatch.setattr("IPython.display.display", lambda figure: None)
    drawn = []
    plot = DetectionTrace.sampling_points
    monkeypatch.setattr(
        DetectionTrace, "sampling_points", lambda *args: drawn.append(args[1]) or plot(*args)
    )
    dd.explore(small := detector(), IMAGE)
    data = session_of(small).page_data()
    assert drawn == [data["queries"][data["first"]]]


def test_without_anywidget_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(ValueError, match="pip install anywidget"):
        dd.explore(detector(), IMAGE)
