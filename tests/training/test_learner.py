"""One step: the same gradient however it is computed, precision, averages, and its state."""

import copy
import math

import pytest
import torch
from torchvision.transforms.v2.functional import resize

import ddetr_edu.training.detector as detector_module
from ddetr_edu.data import CocoDetection
from ddetr_edu.training import NonFiniteLoss
from ddetr_edu.training.learner import Learner, moving_average
from ddetr_edu.training.optim import OptimConfig

OPTIM = OptimConfig(warmup_steps=0, clip=1e9).filled("fast")


@pytest.fixture
def pictures(shapes_folder):
    """(images, targets) of four pictures; the halves hold different numbers of objects.

    All are of one size: what is padded to another gives, a little, another answer.
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
def learner(build, shapes_folder):
    """learner(optim, **options): a fresh one, always with the same weights."""
    categories = CocoDetection(shapes_folder, "train").categories

    def make(optim=OPTIM, frozen_norms=False, **options):
        detector = build(categories=categories).train()
        if frozen_norms:  # a batch norm looks at its batch, and the halves of a batch are others
            for module in detector.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.eval()
        return Learner(detector, optim, **options)

    return make


def part(pictures, first, last):
    return pictures[0][first:last], pictures[1][first:last]


def gradients(learner):
    return {name: p.grad.clone() for name, p in learner.detector.named_parameters()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        scale = expected[name].abs().max().item()
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-4 * scale + 1e-7,
                                   msg=name)  # fmt: skip


def test_batches_of_one_step_give_the_gradient_of_all_at_once(learner, pictures):
    at_once, in_parts = learner(frozen_norms=True), learner(frozen_norms=True)
    whole = at_once.step([pictures], 1, 0.0)
    parts = in_parts.step([part(pictures, 0, 1), part(pictures, 1, 4)], 1, 0.0)
    assert_same(gradients(in_parts), gradients(at_once))
    assert parts == pytest.approx(whole, rel=1e-4)


def test_two_processes_give_the_gradient_of_one(learner, pictures, in_processes):
    def work():
        from ddetr_edu.training import distributed

        with distributed.processes(torch.device("cpu")):
            first = 2 * distributed.rank()
            mine = learner(frozen_norms=True)
            line = mine.step([part(pictures, first, first + 2)], 1, 0.0)
            grads = {name: grad.numpy() for name, grad in gradients(mine).items()}
            mine = learner(frozen_norms=True)
            mine.step([part(pictures, first + i, first + i + 1) for i in (0, 1)], 1, 0.0)
            return line, grads, {name: grad.numpy() for name, grad in gradients(mine).items()}

    alone = learner(frozen_norms=True)
    line = alone.step([pictures], 1, 0.0)
    for found, together, one_by_one in in_processes(work):
        assert found == pytest.approx(line, rel=1e-4)
        for grads in (together, one_by_one):
            assert_same({n: torch.from_numpy(g) for n, g in grads.items()}, gradients(alone))


def test_pictures_without_objects_are_learned_from(learner, pictures):
    images, targets = copy.deepcopy(pictures)
    for target in targets:
        target["boxes"], target["labels"] = target["boxes"][:0], target["labels"][:0]
    line = learner().step([(images, targets)], 1, 0.0)
    assert line["loss_label"] > 0 and line["loss_l1"] == line["loss_giou"] == 0


def test_gradients_are_clipped_and_the_rate_follows_the_run(learner, pictures):
    mine = learner(OptimConfig(warmup_steps=10, clip=0.01).filled("fast"))
    line = mine.step([part(pictures, 0, 2)], step=4, progress=0.04)
    norm = torch.stack([g.norm() for g in gradients(mine).values()]).norm().item()
    assert norm == pytest.approx(0.01, rel=1e-3) and line["gradient_norm"] > 1
    assert line["rate"] == pytest.approx(0.8 * (0.01 + 0.99 * (1 + math.cos(0.04 * math.pi)) / 2))


def test_a_step_forgets_the_gradients_of_the_step_before(learner, pictures):
    norms = []
    for stale in (None, 1000.0):
        mine = learner()
        for parameter in mine.detector.parameters():
            parameter.grad = None if stale is None else torch.full_like(parameter, stale)
        norms.append(mine.step([part(pictures, 0, 2)], 1, 0.0)["gradient_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


# Precision --------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision, dtype", [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_the_model_runs_in_16_bits_and_its_losses_in_32(
    learner, pictures, precision, dtype, monkeypatch
):
    seen = {}
    real = detector_module.detection_losses

    def spy(predictions, targets, weights):
        seen["logits"] = predictions.logits.dtype
        seen["autocast"] = torch.is_autocast_enabled("cpu")
        seen["losses"] = real(predictions, targets, weights)
        return seen["losses"]

    monkeypatch.setattr(detector_module, "detection_losses", spy)
    mine = learner(precision=precision)
    before = {n: p.clone() for n, p in mine.detector.named_parameters()}
    line = mine.step([part(pictures, 0, 2)], 1, 0.0)
    assert seen["logits"] == dtype and not seen["autocast"]
    assert {loss.dtype for loss in seen["losses"].values()} == {torch.float32}
    full = learner().step([part(pictures, 0, 2)], 1, 0.0)
    assert line["loss"] == pytest.approx(full["loss"], rel=0.03) and line["loss"] != full["loss"]
    if precision == "bf16":
        assert not mine.scaler.is_enabled()
    else:
        assert mine.scaler.get_scale() in (2.0**16, 2.0**15)  # halved if the step overflowed
        mine = learner()
        mine.autocast, mine.scaler = dtype, torch.amp.GradScaler("cpu", init_scale=64.0)
        line = mine.step([part(pictures, 0, 2)], 1, 0.0)
    assert line["gradient_norm"] == pytest.approx(full["gradient_norm"], rel=0.2)
    assert any(not torch.equal(p, before[n]) for n, p in mine.detector.named_parameters())


def test_an_overflow_in_fp16_skips_the_step_and_lowers_the_scale(learner, pictures):
    mine = learner(precision="fp16")
    mine.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100)
    before = {n: p.clone() for n, p in mine.detector.named_parameters()}
    line = mine.step([part(pictures, 0, 2)], 1, 0.0)
    assert not math.isfinite(line["gradient_norm"]) and math.isfinite(line["loss"])
    assert mine.scaler.get_scale() == 2.0**99
    assert all(torch.equal(p, before[n]) for n, p in mine.detector.named_parameters())
    mine.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)  # there is nothing left to lower
    mine.losses = lambda images, targets: {
        name: sum(p.sum() for p in mine.detector.parameters()) * factor
        for name, factor in (("loss_label", 1e38), ("loss_l1", 1e38), ("loss_giou", -1e38))
    }
    with pytest.raises(NonFiniteLoss):
        mine.step([part(pictures, 0, 2)], 2, 0.0)


def test_activations_computed_twice_give_the_same_gradients(learner, pictures):
    plain, twice = learner(), learner()
    twice.detector.model.encoder.checkpoint_activations = True
    calls = []
    twice.detector.model.encoder.layers[0].register_forward_pre_hook(lambda *_: calls.append(1))
    lines = [each.step([part(pictures, 0, 2)], 1, 0.0) for each in (plain, twice)]
    assert len(calls) == 2 and lines[0] == lines[1]
    expected = gradients(plain)
    assert all(torch.equal(grad, expected[name]) for name, grad in gradients(twice).items())


# Averages and state -----------------------------------------------------------------------------


def test_the_average_follows_the_weights(learner, pictures):
    mine = learner(ema=0.9)
    name = "model.level_embedding"
    seen = []
    for step in (1, 2, 3):
        mine.step([part(pictures, 0, 2)], step, 0.0)
        seen.append(mine.detector.state_dict()[name].clone())
    expected = seen[0]
    for n, weight in enumerate(seen[1:], start=1):
        keep = min(0.9, (1 + n) / (10 + n))
        expected = keep * expected + (1 - keep) * weight
    torch.testing.assert_close(mine.result.state_dict()[name], expected)
    assert mine.result is not mine.detector and learner().result is not None
    counts = [b for n, b in mine.result.named_buffers() if n.endswith("num_batches_tracked")]
    assert counts and all(count == 3 for count in counts)


def test_in_the_long_run_the_average_keeps_as_much_as_asked_for():
    move = moving_average(0.9)
    moved = move(torch.tensor(1.0), torch.tensor(2.0), torch.tensor(10**6))
    assert moved.item() == pytest.approx(1.1)


@pytest.mark.parametrize("options", [{}, dict(ema=0.9), dict(precision="fp16")])
def test_from_its_state_it_goes_on_exactly(learner, pictures, options, tmp_path):
    def step(mine, number):
        mine.step([part(pictures, number % 3, number % 3 + 2)], number, 0.1 * number)

    whole = learner(**options)
    for number in range(1, 6):
        if number == 4:
            torch.save([whole.result.model.state_dict(), whole.state()], tmp_path / "state.pt")
        step(whole, number)
    again = learner(**options)
    again.restore(*torch.load(tmp_path / "state.pt", weights_only=True))
    for number in (4, 5):
        step(again, number)
    for mine, other in ((whole.detector, again.detector), (whole.result, again.result)):
        other = other.state_dict()
        assert all(torch.equal(value, other[name]) for name, value in mine.state_dict().items())
