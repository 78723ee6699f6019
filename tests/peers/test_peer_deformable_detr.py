"""Hugging Face's Deformable DETR with the same parameters: the same names and predictions."""

import os
import re
from pathlib import Path

import PIL.Image
import pytest
import torch
from torch import nn

from ddetr_edu.checkpoints.deformable_detr_names import to_huggingface
from ddetr_edu.checkpoints.huggingface import save_huggingface
from ddetr_edu.checkpoints.io import load
from ddetr_edu.models.config import DeformableDETRConfig
from ddetr_edu.models.deformable_detr import DeformableDETR
from ddetr_edu.models.position import sine_box_embedding

transformers = pytest.importorskip("transformers")
pytest.importorskip("timm")

Theirs = transformers.DeformableDetrForObjectDetection

VARIANTS = {
    "single scale": dict(num_feature_levels=1),
    # torchvision dilates no smaller ResNet.
    "single scale DC5": dict(num_feature_levels=1, dilation=True, backbone="resnet50"),
    "multi-scale": dict(num_feature_levels=4),
    "refine": dict(num_feature_levels=4, with_box_refine=True),
    "two-stage": dict(num_feature_levels=4, with_box_refine=True, two_stage=True),
}
SMALL = dict(
    backbone="resnet18",
    d_model=96,
    encoder_layers=2,
    decoder_layers=3,
    encoder_attention_heads=3,
    decoder_attention_heads=3,
    encoder_n_points=5,
    decoder_n_points=5,
    encoder_ffn_dim=37,
    decoder_ffn_dim=37,
    num_queries=19,
    two_stage_num_proposals=19,
    num_labels=11,
)


@pytest.fixture(scope="module", params=VARIANTS)
def theirs(request):
    """A small model of theirs with random parameters and statistics."""
    model = Theirs(transformers.DeformableDetrConfig(**{**SMALL, **VARIANTS[request.param]}))
    if model.config.with_box_refine and not model.config.two_stage:
        # They build one shared head, but load separate ones from a file that has them.
        for head in model.class_embed:
            head.weight, head.bias = (nn.Parameter(p.clone()) for p in (head.weight, head.bias))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, values in model.state_dict().items():
            noise = torch.randn(values.shape, generator=generator)
            if name.endswith("running_var"):
                values.copy_(noise.abs() + 0.5)
            elif "_embeddings" in name:
                values.copy_(noise)
            elif values.dim() > 1:
                values.copy_(noise / values[0].numel() ** 0.5)
            else:  # norms stay near 1, offsets near their star
                values.add_(0.1 * noise)
    return model.eval()


@pytest.fixture(scope="module")
def ours(theirs, tmp_path_factory):
    """The same model, converted from a file of theirs."""
    folder = tmp_path_factory.mktemp("theirs")
    theirs.save_pretrained(folder)
    return load(folder)


def test_converted_to_ours_and_back_the_parameters_are_identical(theirs, ours, tmp_path):
    save_huggingface(tmp_path, ours)
    back, info = Theirs.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info  # nothing missing, nothing unexpected
    expected, found = theirs.state_dict(), back.state_dict()
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.equal(found[name], values), name
    for name in ("num_feature_levels", "dilation", "with_box_refine", "two_stage", "id2label"):
        assert getattr(back.config, name) == getattr(theirs.config, name), name


@pytest.mark.parametrize("dtype, bound", [(torch.float32, 1e-4), (torch.float64, 1e-9)])
@torch.no_grad()
def test_the_predictions_are_the_same(theirs, ours, monkeypatch, dtype, bound):
    if dtype == torch.float64:  # they compute these sines in fp32 in any case
        double = lambda logits: sine_box_embedding(logits.sigmoid(), theirs.config.d_model)  # noqa: E731
        monkeypatch.setattr(theirs.model, "get_proposal_pos_embed", double)
    images, padding_mask = batch(dtype)
    mine = ours.model.to(dtype)(images, padding_mask)
    # Their mask is the inverse of ours.
    yours = theirs.to(dtype)(pixel_values=images, pixel_mask=(~padding_mask).long())
    for a, b in ((mine.logits, yours.logits), (mine.boxes, yours.pred_boxes)):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= bound
        assert b.std(dim=1).min() > 0.02  # the queries do differ


def batch(dtype):
    """Two images of different shapes, neither square, in one padded batch."""
    generator = torch.Generator().manual_seed(3)
    images = torch.zeros(2, 3, 107, 157, dtype=dtype)
    padding_mask = torch.ones(2, 107, 157, dtype=torch.bool)
    for n, (height, width) in enumerate([(107, 131), (79, 157)]):
        images[n, :, :height, :width] = torch.randn(3, height, width, generator=generator)
        padding_mask[n, :height, :width] = False
    return images, padding_mask


@pytest.mark.parametrize("preset", ["r50_single_scale", "r50", "r50_refine", "r50_two_stage"])
def test_names_and_shapes_of_the_real_models_are_theirs(preset):
    """Names are compared as transformers reads a file: renamed, shared parameters repeated."""
    with torch.device("meta"):
        config = DeformableDETRConfig.preset(preset)
        mine = to_huggingface(DeformableDETR(config).state_dict(), config)
        theirs = Theirs(
            transformers.DeformableDetrConfig(
                num_labels=91,
                num_feature_levels=config.n_levels,
                with_box_refine=config.box_refine,
                two_stage=config.two_stage,
            )
        )
    expected = {name: p.shape for name, p in theirs.state_dict().items()}
    found = {}
    for name, tensor in mine.items():
        for old, new in (
            ("backbone.conv_encoder", "backbone"),
            ("self_attn.out_", "self_attn.o_"),
            (".fc", ".mlp.fc"),
        ):
            name = name.replace(old, new)
        found[
            name.replace("model.decoder.bbox_embed", "bbox_embed").replace(
                "model.decoder.class_embed", "class_embed"
            )
        ] = tensor.shape
    written = {
        name
        for name in expected
        if not name.startswith(("model.decoder.bbox_embed", "model.decoder.class_embed"))
        and (config.box_refine or not re.match(r"(class|bbox)_embed.[1-9]", name))
    }
    assert found == {name: expected[name] for name in written}


@pytest.mark.skipif("DDETR_REAL_WEIGHTS" not in os.environ, reason="set DDETR_REAL_WEIGHTS")
def test_the_published_parameters_give_the_known_detections():
    """Two cats and two remote controls, with the numbers that transformers' own tests expect.

    DDETR_REAL_WEIGHTS: a folder with the files of SenseTime/deformable-detr and COCO's image
    000000039769.jpg.
    """
    folder = Path(os.environ["DDETR_REAL_WEIGHTS"])
    image = folder / "000000039769.jpg"
    detector = load(folder)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    inputs = processor(images=PIL.Image.open(image), return_tensors="pt")
    with torch.no_grad():
        found = detector.model(inputs["pixel_values"], inputs["pixel_mask"] == 0)
    expected = {"logits": [-9.6644, -4.3434, -5.8707], "boxes": [0.8693, 0.2290, 0.2492]}
    for name, values in expected.items():
        first = getattr(found, name)[0, 0, :3]
        torch.testing.assert_close(first, torch.tensor(values), rtol=0, atol=2e-4)
    detections = detector.predict(image, threshold=0.3)  # resized by torchvision: almost the same
    scores = torch.tensor([0.7999, 0.7895, 0.6332, 0.4719, 0.4382])
    torch.testing.assert_close(detections["scores"], scores, rtol=0, atol=0.02)
    names = [detector.categories[label] for label in detections["labels"].tolist()]
    assert names == ["cat", "cat", "remote", "remote", "couch"]
