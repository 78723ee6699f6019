"""`Detector`: the contract of torchvision.models.detection, and the errors it raises."""

import pickle

import numpy as np
import PIL.Image
import pytest
import torch
from torchvision import tv_tensors

from ddetr_edu.checkpoints.huggingface import save_huggingface
from ddetr_edu.checkpoints.io import save
from ddetr_edu.checkpoints.official import save_official
from ddetr_edu.checkpoints.onnx import export_onnx
from ddetr_edu.detector import Detector
from ddetr_edu.losses.criterion import detection_losses
from ddetr_edu.losses.denoising import Denoising
from ddetr_edu.losses.matcher import LossWeights
from ddetr_edu.models.config import DeformableDETRConfig, DETRConfig, ResizeConfig
from ddetr_edu.models.deformable_detr import DeformableDETR
from ddetr_edu.models.detr import DETR
from ddetr_edu.models.preprocessing import load_image, make_batch


@pytest.fixture
def images():
    g = torch.Generator().manual_seed(1)
    return [torch.rand(3, h, w, generator=g) for h, w in ((53, 97), (89, 61))]


@pytest.fixture
def targets():
    return [
        {
            "boxes": torch.tensor([[10.0, 20, 50, 40], [0, 0, 97, 53]]),
            "labels": torch.tensor([90, 3]),
        },
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]


# Training ---------------------------------------------------------------------------------------


def test_in_training_it_gives_losses_to_be_summed(build, images, targets):
    detector = build().train()
    losses = detector(images, targets)
    kinds = {"loss_label", "loss_l1", "loss_giou"}
    assert set(losses) == kinds | {f"{name}_layer0" for name in kinds}
    total = sum(losses.values())
    assert total.shape == () and torch.isfinite(total)
    total.backward()
    untouched = [n for n, p in detector.named_parameters() if p.grad is None]
    assert untouched == []


def test_in_two_stages_the_encoder_has_losses_of_its_own(build, images, targets):
    detector = build(two_stage=True, n_queries=300).train()  # 126 tokens
    losses = detector(images, targets)
    kinds = {"loss_label", "loss_l1", "loss_giou"}
    assert set(losses) == {name + where for name in kinds for where in ("", "_layer0", "_encoder")}
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in detector.parameters())
    detections = detector.eval()(images)
    assert all(len(found["boxes"]) == 100 for found in detections)


def test_targets_reach_the_losses_as_class_indices_and_fractions(
    build, images, targets, monkeypatch
):
    calls = []

    def spy(predictions, targets, weights, num_boxes, num_images):
        calls.append((targets, weights, num_boxes, num_images))
        return detection_losses(predictions, targets, weights, num_boxes, num_images)

    monkeypatch.setattr("ddetr_edu.detector.detection_losses", spy)
    detector = build().train()
    detector.loss_weights = LossWeights(1.0, 2.0, 3.0)
    detector(images, targets, 5.0, 3.0)
    ((first, second), weights, num_boxes, num_images) = calls[0]
    assert weights == LossWeights(1.0, 2.0, 3.0)
    assert (num_boxes, num_images) == (5.0, 3.0)
    assert first["labels"].tolist() == [2, 0]  # 90 is the third category, 3 the first
    expected = torch.tensor([[30 / 97, 30 / 53, 40 / 97, 20 / 53], [0.5, 0.5, 1, 1]])
    torch.testing.assert_close(first["boxes"], expected)
    assert second["boxes"].shape == (0, 4) and second["labels"].shape == (0,)


def test_boxes_may_be_tv_tensors_or_of_other_dtypes(build, images, targets):
    torch.manual_seed(2)
    detector = build().train()
    expected = detector(images, targets)
    for convert in (
        lambda boxes: tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(53, 97)),
        lambda boxes: boxes.double(),
        lambda boxes: boxes.long(),
    ):
        same = [{**t, "boxes": convert(t["boxes"])} for t in targets]
        found = detector(images, same)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(boxes=torch.zeros(4)), r"target 1 has boxes of shape \(4,\)"),
        (dict(boxes=torch.zeros(2, 5)), r"target 1 has boxes of shape \(2, 5\)"),
        (dict(boxes=torch.tensor([[1.0, 2, 3, 4]] * 2)), "target 1 .* and 1 labels"),
        (dict(boxes=torch.tensor([[5.0, 2, 3, 4]])), "target 1 .* no width or height"),
        (dict(boxes=torch.tensor([[1.0, 4, 3, 4]])), "target 1 .* no width or height"),
        (dict(boxes=torch.tensor([[1.0, 2, torch.nan, 4]])), "target 1 .* not finite"),
        (dict(boxes=torch.tensor([[1.0, 2, torch.inf, 4]])), "target 1 .* not finite"),
        (dict(labels=torch.tensor([4])), r"target 1 has label 4, .*\[3, 7, 90\]"),
    ],
)
def test_invalid_targets_are_named(build, images, targets, change, message):
    targets[1] = {"boxes": torch.tensor([[1.0, 2, 3, 4]]), "labels": torch.tensor([7]), **change}
    with pytest.raises(ValueError, match=message) as refused:
        build().train()(images, targets)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["boxes", "labels"])
def test_an_incomplete_target_is_named(build, images, targets, name):
    del targets[0][name]
    with pytest.raises(ValueError, match=f'target 0 has no "{name}"'):
        build().train()(images, targets)


def test_training_without_targets_says_how_to_detect(build, images, targets):
    detector = build().train()
    with pytest.raises(ValueError, match=r"2 images .* none; call .eval\(\)"):
        detector(images)
    with pytest.raises(ValueError, match="2 images .* there are 1"):
        detector(images, targets[:1])


# Inference --------------------------------------------------------------------------------------


@torch.no_grad()
def test_in_evaluation_it_gives_boxes_in_pixels_with_category_ids(build, images):
    detections = build()(images)
    assert len(detections) == 2
    for found, image in zip(detections, images, strict=True):
        height, width = image.shape[1:]
        assert found["boxes"].shape == (19 * 3, 4)  # every pair, as there are fewer than 100
        x1, y1, x2, y2 = found["boxes"].T
        assert (x1 >= 0).all() and (y1 >= 0).all()
        assert (x2 <= width).all() and (y2 <= height).all()
        assert (x1 <= x2).all() and (y1 <= y2).all()
        assert set(found["labels"].tolist()) == {3, 7, 90}
        assert (found["scores"].diff() <= 0).all()
        assert found["queries"].min() == 0 and found["queries"].max() == 18


@torch.no_grad()
def test_labels_belong_to_their_class_outputs(build, images):
    detector = build()
    bias = detector.model.decoder.heads[-1].class_head.bias
    for index, label in enumerate(detector.categories):
        bias.copy_(torch.tensor([8.0 if k == index else -8.0 for k in range(3)]))
        for found in detector(images):
            assert (found["labels"][:19] == label).all()


@torch.no_grad()
def test_boxes_are_those_of_the_model_in_pixels_of_the_original(build, images):
    detector = build()
    boxes = detector.model(*make_batch(images, ResizeConfig(64, 96))).boxes
    for n, found in enumerate(detector(images)):
        height, width = images[n].shape[1:]
        cx, cy, w, h = boxes[n, found["queries"]].T
        expected = torch.stack(
            [
                ((cx - w / 2) * width).clamp(0, width),
                ((cy - h / 2) * height).clamp(0, height),
                ((cx + w / 2) * width).clamp(0, width),
                ((cy + h / 2) * height).clamp(0, height),
            ],
            -1,
        )
        torch.testing.assert_close(found["boxes"], expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "bad, message",
    [
        (torch.rand(1, 5, 7), r"image 1 has shape \(1, 5, 7\)"),
        (torch.rand(5, 7, 3), r"image 1 has shape \(5, 7, 3\)"),
        (torch.rand(1, 3, 5, 7), r"image 1 has shape \(1, 3, 5, 7\)"),
        (torch.rand(3, 0, 7), r"image 1 has shape \(3, 0, 7\)"),
        (torch.zeros(3, 5, 7, dtype=torch.uint8), "image 1 is torch.uint8; .*divide by 255"),
    ],
)
@pytest.mark.parametrize("training", [False, True])
def test_invalid_images_are_named(build, images, targets, bad, message, training):
    with pytest.raises(ValueError, match=message):
        build().train(training)([images[0], bad], targets)


def test_an_empty_list_is_refused(build):
    with pytest.raises(ValueError, match="list of images is empty"):
        build()([])


# Categories -------------------------------------------------------------------------------------


def test_a_list_of_names_is_labelled_from_0(build):
    detector = build(categories=["cat", "dog"])
    assert detector.categories == {0: "cat", 1: "dog"} and detector.labels == [0, 1]


@pytest.mark.parametrize("categories", [["cat"], {1: "a", 2: "b", 3: "c"}])
def test_another_number_of_categories_than_class_outputs_is_refused(categories):
    config = DeformableDETRConfig.preset("tiny", num_classes=2, n_encoder_layers=0)
    model = DeformableDETR(config)
    with pytest.raises(ValueError, match=f"{len(categories)} categories .* 2 class"):
        Detector(model, categories)


# Images from files ------------------------------------------------------------------------------


@pytest.fixture
def painting():
    """An image of 29 x 23 px whose four quarters have different colours."""
    pixels = np.zeros((23, 29, 3), np.uint8)
    pixels[:11, :14] = (200, 10, 30)
    pixels[:11, 14:] = (20, 180, 60)
    pixels[11:, :14] = (40, 50, 220)
    pixels[11:, 14:] = (240, 230, 90)
    return PIL.Image.fromarray(pixels)


def floats(image):
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    return pixels.contiguous() / 255


def test_a_file_is_read_as_rgb_floats(painting, tmp_path):
    painting.save(tmp_path / "a.png")
    for image in (painting, tmp_path / "a.png", str(tmp_path / "a.png")):
        found = load_image(image)
        assert found.shape == (3, 23, 29) and found.dtype == torch.float32
        torch.testing.assert_close(found, floats(painting))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "LA"])
def test_other_kinds_of_image_become_rgb(painting, tmp_path, mode):
    other = painting.convert(mode)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    other.save(path)
    found = load_image(path)
    assert found.shape == (3, 23, 29)
    if mode not in ("CMYK", "1"):
        torch.testing.assert_close(found, floats(other))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(painting, tmp_path, orientation):
    transpositions = {  # from the upright image to the stored pixels
        1: [],
        2: [0],
        3: [3],
        4: [1],
        5: [5],
        6: [2],
        7: [6],
        8: [4],
    }
    stored = painting
    for operation in transpositions[orientation]:
        stored = stored.transpose(PIL.Image.Transpose(operation))
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    torch.testing.assert_close(load_image(tmp_path / "a.png"), floats(painting))


@pytest.fixture
def broken_files(tmp_path, painting):
    (tmp_path / "text.png").write_text("this is no image")
    (tmp_path / "empty.png").write_bytes(b"")
    painting.resize((290, 230)).save(tmp_path / "complete.jpg")
    (tmp_path / "truncated.jpg").write_bytes((tmp_path / "complete.jpg").read_bytes()[:1500])
    return tmp_path


@pytest.mark.parametrize("name", ["text.png", "empty.png", "truncated.jpg"])
def test_a_file_that_is_no_image_is_named(broken_files, name):
    with pytest.raises(ValueError, match=f"{name} cannot be read as an image") as refused:
        load_image(broken_files / name)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["missing.png", "."])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(ValueError, match="there is no image at"):
        load_image(tmp_path / name)


def test_predict_takes_files_and_images_alike(build, painting, tmp_path):
    painting.save(tmp_path / "a.png")
    detector = build().train()
    by_path = detector.predict(tmp_path / "a.png", threshold=0.0)
    assert not detector.training
    by_image = detector.predict(painting, threshold=0.0)
    with torch.no_grad():
        (direct,) = detector([floats(painting)])
    assert set(by_path) == {"boxes", "scores", "labels", "queries"}
    for name, values in direct.items():
        torch.testing.assert_close(by_path[name], values, rtol=0, atol=1e-4)
        assert torch.equal(by_path[name], by_image[name])
        assert not by_path[name].requires_grad


def test_predict_leaves_out_detections_below_the_threshold(build, painting):
    detector = build()
    everything = detector.predict(painting, threshold=0.0)
    middle = everything["scores"][7].item()
    found = detector.predict(painting, threshold=middle)
    assert found["scores"].min() >= middle
    kept = int((everything["scores"] >= middle).sum())
    assert 8 <= kept < len(everything["scores"])
    assert all(len(values) == kept for values in found.values())
    assert all(len(v) == 0 for v in detector.predict(painting, threshold=1.0).values())
    assert len(detector.predict(painting)["scores"]) == 0  # 0.5 by default


@pytest.mark.parametrize("threshold", [2, 1.01, -1, -0.01, float("nan"), float("inf")])
def test_a_threshold_that_no_score_can_have_is_refused(build, painting, threshold):
    for images in (painting, [painting], []):
        with pytest.raises(ValueError, match=f"the threshold is {threshold:g}; .* 0 to 1"):
            build().predict(images, threshold)


def test_more_detections_than_100_can_be_asked_for(build, images):
    detector = build().eval()
    n = len(detector.labels) * detector.model.config.n_queries
    for top_k in (1, 5, 1000):
        assert len(detector(images, top_k=top_k)[0]["scores"]) == min(top_k, n)
    with pytest.raises(ValueError, match="top_k is 0"):
        detector(images, top_k=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("part", ["model", "backbone"])
def test_a_model_of_16_bits_says_what_to_do(build, painting, images, targets, dtype, part):
    detector = build()
    (detector.model if part == "model" else detector.model.backbone).to(dtype)
    for call in (
        lambda: detector.predict(painting),
        lambda: detector.eval()(images),
        lambda: detector.train()(images, targets),
    ):
        with pytest.raises(ValueError, match=r"float16.*detector\.float\(\).*torch\.autocast"):
            call()
    with torch.autocast("cpu", torch.bfloat16):  # as the sentence advises
        assert len(detector.float().predict(painting, 0.0)["scores"])


def test_a_model_of_64_bits_predicts(build, painting):
    expected = build().predict(painting, 0.0)
    found = build().double().predict(painting, 0.0)
    torch.testing.assert_close(found["scores"].float(), expected["scores"], rtol=1e-4, atol=1e-5)


def test_another_device_or_dtype_is_named(build):
    detector = build()
    with pytest.raises(ValueError, match="image 0 is on meta, but the detector is on cpu"):
        detector([torch.zeros(3, 20, 30, device="meta")])
    with pytest.raises(TypeError, match="images are torch.float64, but the model computes in"):
        detector([torch.zeros(3, 20, 30, dtype=torch.float64)])
    with pytest.raises(ValueError, match="takes a list of"):
        detector(torch.zeros(2, 3, 20, 30))


def test_16_bit_grey_keeps_its_values():
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(7, axis=0)
    image = load_image(PIL.Image.fromarray(ramp))
    assert image.shape == (3, 7, 256)
    assert image.mean().item() == pytest.approx(0.5, abs=0.01)


def test_the_copy_for_inference_detects_the_same(build, images, targets):
    detector = build()
    detector.train()(images, targets)  # so that the batch norms have statistics
    with torch.no_grad():
        before = detector.eval()(images)
        faster = detector.for_inference()
        after = faster(images)
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(other["boxes"], one["boxes"], rtol=1e-4, atol=1e-2)
        torch.testing.assert_close(other["scores"], one["scores"], rtol=1e-4, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in faster.parameters())
    again = faster.for_inference().eval()(images)
    assert torch.equal(again[0]["scores"], after[0]["scores"])
    for train in (faster.train, faster.for_inference().train):
        with pytest.raises(ValueError, match="for_inference.. cannot be trained"):
            train()
    assert not faster.training
    detector.train()(images, targets)["loss_label"].backward()  # the original can still be trained


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "official", "huggingface", "a.onnx"])
def test_the_copy_for_inference_cannot_be_saved(build, images, tmp_path, name):
    faster = build().for_inference()
    write = {"official": save_official, "huggingface": save_huggingface, "a.onnx": export_onnx}.get(
        name, save
    )
    with pytest.raises(ValueError, match="for_inference.. cannot be saved"):
        write(tmp_path / name, faster)
    assert not list(tmp_path.iterdir())
    for module in (faster, faster.model, pickle.loads(pickle.dumps(faster))):
        with pytest.raises(ValueError, match="for_inference.. cannot be saved"):
            module.state_dict()


# Images in memory -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        lambda p: np.array(p),
        lambda p: np.array(p)[:, ::-1][:, ::-1],  # strides that torch does not take
        lambda p: np.array(p) / 255,
        lambda p: np.dstack([np.array(p), np.full((23, 29), 77, np.uint8)]),
        lambda p: torch.from_numpy(np.array(p)).permute(2, 0, 1),
        lambda p: torch.from_numpy(np.array(p).astype(np.uint16) * 257).permute(2, 0, 1),
        floats,
        lambda p: floats(p).double(),
        lambda p: p.convert("RGBA"),
    ],
    ids=[
        "array",
        "flipped twice",
        "floats",
        "alpha",
        "uint8",
        "16 bits",
        "tensor",
        "double",
        "PIL",
    ],
)
def test_arrays_and_tensors_are_the_same_image(painting, given):
    found = load_image(given(painting))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, floats(painting))


@pytest.mark.parametrize("given", [lambda g: g, lambda g: g[..., None]])
def test_grey_arrays_become_rgb(painting, given):
    grey = painting.convert("L")
    torch.testing.assert_close(load_image(given(np.array(grey))), floats(grey))


def test_16_bits_mean_the_same_in_a_file_an_array_and_a_tensor(tmp_path):
    grey = np.linspace(0, 65535, 17 * 13).astype(np.uint16).reshape(17, 13)
    PIL.Image.fromarray(grey).save(tmp_path / "a.png")
    from_file = load_image(tmp_path / "a.png")
    torch.testing.assert_close(load_image(grey), from_file, rtol=0, atol=1 / 255)
    torch.testing.assert_close(load_image(torch.from_numpy(grey)[None]), load_image(grey))


@pytest.mark.parametrize(
    "given, error, message",
    [
        (np.zeros((2, 3, 4, 3), np.uint8), ValueError, r"array of shape \(2, 3, 4, 3\)"),
        (np.zeros(7, np.uint8), ValueError, r"array of shape \(7,\)"),
        (np.zeros((0, 5), np.uint8), ValueError, r"shape \(1, 0, 5\)"),
        (torch.zeros(5, 7, 3), ValueError, r"shape \(5, 7, 3\), channels first"),
        (torch.zeros(2, 3, 5, 7), ValueError, r"shape \(2, 3, 5, 7\)"),
        (np.full((5, 7, 3), 200.0), ValueError, "run from 200 to 200.*divide by 255"),
        (torch.full((3, 5, 7), -1.0), ValueError, "run from -1 to -1"),
        (torch.full((3, 5, 7), torch.nan), ValueError, "run from nan to nan"),
        (np.zeros((5, 7, 3), np.int64), TypeError, "torch.int64"),
        (3, TypeError, "not as int"),
        (None, TypeError, "not as NoneType"),
    ],
)
def test_arrays_and_objects_that_are_no_image_are_refused(build, given, error, message):
    with pytest.raises(error, match=message) as refused:
        build().predict(given)
    assert "\n" not in str(refused.value)


def test_predict_of_a_list_is_a_list_of_each_alone(build, painting, tmp_path):
    painting.save(tmp_path / "a.png")
    wide = np.random.default_rng(0).integers(0, 255, (11, 47), np.uint8)
    given = [tmp_path / "a.png", wide, floats(painting)]
    detector = build()
    together = detector.predict(given, threshold=0.0)
    assert isinstance(together, list) and len(together) == 3
    for image, found in zip(given, together, strict=True):
        alone = detector.predict(image, threshold=0.0)
        assert all(torch.equal(found[name], values) for name, values in alone.items())
    assert detector.predict([]) == []


def test_predict_keeps_the_best_k(build, painting):
    detector = build()
    everything = detector.predict(painting, threshold=0.0, top_k=1000)
    assert len(everything["scores"]) == 19 * 3
    best = detector.predict(painting, threshold=0.0, top_k=5)
    assert len(best["scores"]) == 5
    assert all(torch.equal(values, everything[name][:5]) for name, values in best.items())
    with pytest.raises(ValueError, match="top_k is 0"):
        detector.predict(painting, top_k=0)


@pytest.mark.parametrize("shape", [(1, 1), (1, 200), (300, 1)])
@pytest.mark.parametrize("two_stage", [False, True])
def test_images_one_pixel_thin(build, shape, two_stage):
    found = build(two_stage=two_stage).predict(np.full(shape, 99, np.uint8), threshold=0.0)
    assert len(found["boxes"]) and torch.isfinite(found["boxes"]).all()
    assert (found["boxes"][:, 2:].amax(0) <= torch.tensor([shape[1], shape[0]])).all()


def test_denoising_of_a_detr_is_refused():
    model = DETR(DETRConfig.preset("detr_tiny", num_classes=2))
    with pytest.raises(ValueError, match="denoising queries are for a DeformableDETR"):
        Detector(model, ["cat", "dog"], denoising=Denoising(2, 128))
