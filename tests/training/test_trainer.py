"""One step: the same gradient however it is computed; precision, averages, and state."""

import copy
import math

import pytest
import torch
from torchvision.transforms.v2.functional import resize

import ddetr_edu.detector as detector_module
from ddetr_edu.data.coco import CocoDetection
from ddetr_edu.detector import Detector
from ddetr_edu.models.config import DETRConfig, ResizeConfig
from ddetr_edu.models.detr import DETR
from ddetr_edu.training.config import OptimConfig
from ddetr_edu.training.loop import train_step
from ddetr_edu.training.trainer import NonFiniteLoss, Trainer, moving_average

OPTIM = OptimConfig(warmup_steps=0, max_grad_norm=1e9).filled("fast")


@pytest.fixture
def images(shapes_folder):
    """(images, targets) of four images; the halves hold different numbers of objects.

    All have one size: padding would change the predictions slightly.
    """
    dataset = CocoDetection(shapes_folder, "train")
    images, targets = zip(*(dataset[i] for i in range(4)), strict=True)
    counts = [len(target["labels"]) for target in targets]
    assert sum(counts[:2]) != sum(counts[2:])
    return [resize(image, [67, 83]) for image in images], [fit(target) for target in targets]


def fit(target):
    boxes = target["boxes"].as_subclass(torch.Tensor)
    return {**target, "boxes": boxes * torch.tensor([83, 67] * 2) / max(target["size"])}


@pytest.fixture
def trainer(build, shapes_folder):
    """trainer(optim, **options): a new one, always with the same parameters."""
    categories = CocoDetection(shapes_folder, "train").categories

    def make(optim=OPTIM, model="deformable", frozen_norms=False, **options):
        if model == "detr_tiny":
            torch.manual_seed(0)
            config = DETRConfig.preset("detr_tiny", num_classes=len(categories), dropout=0.0)
            detector = Detector(DETR(config), categories, ResizeConfig(64, 96)).train()
        else:
            detector = build(categories=categories, two_stage=model == "two_stage").train()
        if frozen_norms:  # batch statistics of half a batch differ from those of the whole
            for module in detector.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.eval()
        return Trainer(detector, optim, **options)

    return make


def part(images, first, last):
    return images[0][first:last], images[1][first:last]


def gradients(trainer):
    return {name: p.grad.clone() for name, p in trainer.detector.named_parameters()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        scale = expected[name].abs().max().item()
        torch.testing.assert_close(
            found[name], expected[name], rtol=1e-3, atol=1e-4 * scale + 1e-7, msg=name
        )


MODELS = ["deformable", "two_stage", "detr_tiny"]
# How many objects there are in the first and in the second half of the images; None: as drawn.
OBJECTS = {"all": (None, None), "one half empty": (None, 0), "a single object": (1, 0)}


def with_objects(images, first_half, second_half):
    """The same images, with so many objects in either half."""
    images, targets = copy.deepcopy(images)
    for half, count in ((targets[:2], first_half), (targets[2:], second_half)):
        if count is not None:
            for target, kept in zip(half, (count, 0), strict=True):
                target["boxes"], target["labels"] = target["boxes"][:kept], target["labels"][:kept]
    return images, targets


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("objects", OBJECTS)
def test_accumulated_batches_give_the_gradient_of_all_at_once(trainer, images, model, objects):
    images = with_objects(images, *OBJECTS[objects])
    together = trainer(model=model, frozen_norms=True)
    whole = train_step(together, [images], 1, 0.0)
    for splits in ([(0, 2), (2, 4)], [(0, 1), (1, 4)], [(0, 1), (1, 2), (2, 3), (3, 4)]):
        apart = trainer(model=model, frozen_norms=True)
        parts = train_step(apart, [part(images, *split) for split in splits], 1, 0.0)
        assert_same(gradients(apart), gradients(together))
        assert parts == pytest.approx(whole, rel=1e-4)


@pytest.mark.parametrize("model", ["deformable", "detr_tiny"])
@pytest.mark.parametrize("objects", [*OBJECTS, "none"])
def test_two_processes_give_the_gradient_of_one(trainer, images, in_processes, model, objects):
    images = with_objects(images, *OBJECTS.get(objects, (0, 0)))

    def work():
        from ddetr_edu import distributed

        with distributed.process_group(torch.device("cpu")):
            first = 2 * distributed.rank()
            mine = trainer(model=model, frozen_norms=True)
            line = train_step(mine, [part(images, first, first + 2)], 1, 0.0)
            grads = {name: grad.numpy() for name, grad in gradients(mine).items()}
            mine = trainer(model=model, frozen_norms=True)
            train_step(mine, [part(images, first + i, first + i + 1) for i in (0, 1)], 1, 0.0)
            return line, grads, {name: grad.numpy() for name, grad in gradients(mine).items()}

    alone = trainer(model=model, frozen_norms=True)
    line = train_step(alone, [images], 1, 0.0)
    for found, together, one_by_one in in_processes(work):
        assert found == pytest.approx(line, rel=1e-4)
        for grads in (together, one_by_one):
            assert_same({n: torch.from_numpy(g) for n, g in grads.items()}, gradients(alone))


def test_images_without_objects_are_trained_on(trainer, images):
    images, targets = copy.deepcopy(images)
    for target in targets:
        target["boxes"], target["labels"] = target["boxes"][:0], target["labels"][:0]
    line = train_step(trainer(), [(images, targets)], 1, 0.0)
    assert line["loss_label"] > 0 and line["loss_l1"] == line["loss_giou"] == 0


def test_gradients_are_clipped_and_the_learning_rate_follows_the_run(trainer, images):
    mine = trainer(OptimConfig(warmup_steps=10, max_grad_norm=0.01).filled("fast"))
    line = train_step(mine, [part(images, 0, 2)], step=4, progress=0.04)
    norm = torch.stack([g.norm() for g in gradients(mine).values()]).norm().item()
    assert norm == pytest.approx(0.01, rel=1e-3) and line["gradient_norm"] > 1
    factor = 0.8 * (0.01 + 0.99 * (1 + math.cos(0.04 * math.pi)) / 2)
    assert line["lr"] == pytest.approx(2e-3 * factor)


def test_a_step_clears_the_gradients_of_the_previous_one(trainer, images):
    norms = []
    for stale in (None, 1000.0):
        mine = trainer()
        for parameter in mine.detector.parameters():
            parameter.grad = None if stale is None else torch.full_like(parameter, stale)
        norms.append(train_step(mine, [part(images, 0, 2)], 1, 0.0)["gradient_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


# Precision --------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision, dtype", [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_the_model_runs_in_16_bits_and_its_losses_in_32(
    trainer, images, precision, dtype, monkeypatch
):
    seen = {}
    real = detector_module.detection_losses

    def spy(predictions, *arguments):
        seen["logits"] = predictions.logits.dtype
        seen["autocast"] = torch.is_autocast_enabled("cpu")
        seen["losses"] = real(predictions, *arguments)
        return seen["losses"]

    monkeypatch.setattr(detector_module, "detection_losses", spy)
    mine = trainer(precision=precision)
    before = {n: p.clone() for n, p in mine.detector.named_parameters()}
    line = train_step(mine, [part(images, 0, 2)], 1, 0.0)
    assert seen["logits"] == dtype and not seen["autocast"]
    assert {loss.dtype for loss in seen["losses"].values()} == {torch.float32}
    full = train_step(trainer(), [part(images, 0, 2)], 1, 0.0)
    assert line["loss"] == pytest.approx(full["loss"], rel=0.03) and line["loss"] != full["loss"]
    if precision == "bf16":
        assert not mine.scaler.is_enabled()
    else:
        assert mine.scaler.get_scale() in (2.0**16, 2.0**15)  # halved if the step overflowed
        mine = trainer()
        mine.autocast, mine.scaler = dtype, torch.amp.GradScaler("cpu", init_scale=64.0)
        line = train_step(mine, [part(images, 0, 2)], 1, 0.0)
    assert line["gradient_norm"] == pytest.approx(full["gradient_norm"], rel=0.2)
    assert any(not torch.equal(p, before[n]) for n, p in mine.detector.named_parameters())


def test_an_overflow_in_fp16_skips_the_step_and_lowers_the_scale(trainer, images):
    mine = trainer(precision="fp16")
    mine.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100)
    before = {n: p.clone() for n, p in mine.detector.named_parameters()}
    line = train_step(mine, [part(images, 0, 2)], 1, 0.0)
    assert not math.isfinite(line["gradient_norm"]) and math.isfinite(line["loss"])
    assert mine.scaler.get_scale() == 2.0**99
    assert all(torch.equal(p, before[n]) for n, p in mine.detector.named_parameters())
    mine.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)  # the lowest there is
    mine.losses = lambda *arguments: {
        name: sum(p.sum() for p in mine.detector.parameters()) * factor
        for name, factor in (("loss_label", 1e38), ("loss_l1", 1e38), ("loss_giou", -1e38))
    }
    with pytest.raises(NonFiniteLoss):
        train_step(mine, [part(images, 0, 2)], 2, 0.0)


def test_recomputed_activations_give_the_same_gradients(trainer, images):
    plain, twice = trainer(), trainer()
    twice.detector.model.encoder.checkpoint_activations = True
    calls = []
    twice.detector.model.encoder.layers[0].register_forward_pre_hook(lambda *_: calls.append(1))
    lines = [train_step(each, [part(images, 0, 2)], 1, 0.0) for each in (plain, twice)]
    assert len(calls) == 2 and lines[0] == lines[1]
    expected = gradients(plain)
    assert all(torch.equal(grad, expected[name]) for name, grad in gradients(twice).items())


# Averages and state -----------------------------------------------------------------------------


def test_the_average_follows_the_parameters(trainer, images):
    mine = trainer(ema=0.9)
    name = "model.level_embedding"
    seen = []
    for step in (1, 2, 3):
        train_step(mine, [part(images, 0, 2)], step, 0.0)
        seen.append(mine.detector.state_dict()[name].clone())
    expected = seen[0]
    for n, parameter in enumerate(seen[1:], start=1):
        keep = min(0.9, (1 + n) / (10 + n))
        expected = keep * expected + (1 - keep) * parameter
    torch.testing.assert_close(mine.result.state_dict()[name], expected)
    assert mine.result is not mine.detector and trainer().result is not None
    counts = [b for n, b in mine.result.named_buffers() if n.endswith("num_batches_tracked")]
    assert counts and all(count == 3 for count in counts)


def test_in_the_long_run_the_average_has_the_given_decay():
    move = moving_average(0.9)
    moved = move(torch.tensor(1.0), torch.tensor(2.0), torch.tensor(10**6))
    assert moved.item() == pytest.approx(1.1)


@pytest.mark.parametrize("options", [{}, dict(ema=0.9), dict(precision="fp16")])
def test_from_its_state_it_resumes_exactly(trainer, images, options, tmp_path):
    def step(mine, number):
        train_step(mine, [part(images, number % 3, number % 3 + 2)], number, 0.1 * number)

    whole = trainer(**options)
    for number in range(1, 6):
        if number == 4:
            torch.save([whole.result.model.state_dict(), whole.state()], tmp_path / "state.pt")
        step(whole, number)
    again = trainer(**options)
    again.restore(*torch.load(tmp_path / "state.pt", weights_only=True))
    for number in (4, 5):
        step(again, number)
    for mine, other in ((whole.detector, again.detector), (whole.result, again.result)):
        other = other.state_dict()
        assert all(torch.equal(value, other[name]) for name, value in mine.state_dict().items())


def test_an_unknown_precision_is_refused(trainer):
    with pytest.raises(ValueError, match="choose one of fp32, bf16, fp16"):
        trainer(precision="float16")
