"""Checkpoints: written completely or not at all, equal after a round trip, no code executed."""

import os
import pickle
import stat

import pytest
import safetensors.torch
import torch

from ddetr_edu.checkpoints.io import load, save
from ddetr_edu.checkpoints.safe_load import CheckpointError, safe_load
from ddetr_edu.detector import Detector
from ddetr_edu.models.config import DETRConfig, ResizeConfig
from ddetr_edu.models.detr import DETR


@pytest.fixture
def image():
    return torch.rand(3, 53, 89, generator=torch.Generator().manual_seed(4))


@pytest.fixture
def detector(build, image):
    """A detector whose batch norms have moved, too."""
    detector = build().train()
    target = {"boxes": torch.tensor([[5.0, 6, 40, 50]]), "labels": torch.tensor([7])}
    detector([image, image.flip(1)], [target, target])
    return detector.eval()


@torch.no_grad()
def test_a_round_trip_gives_identical_detections(detector, image, tmp_path):
    save(tmp_path / "new" / "c.pt", detector)  # makes the folder
    torch.manual_seed(99)  # the initial parameters of the new model must not matter
    loaded = load(tmp_path / "new" / "c.pt")
    assert not loaded.training
    assert loaded.categories == {3: "cat", 7: "dog", 90: "toothbrush"}
    assert list(loaded.categories) == [3, 7, 90]
    assert loaded.resize == detector.resize and loaded.model.config == detector.model.config
    for name, values in detector([image])[0].items():
        assert torch.equal(loaded([image])[0][name], values), name


@torch.no_grad()
def test_a_safetensors_model_is_small_and_nearly_the_same(detector, image, tmp_path):
    save(tmp_path / "m.safetensors", detector)
    save(tmp_path / "c.pt", detector)
    loaded = load(tmp_path / "m.safetensors")
    assert not loaded.training and loaded.categories == detector.categories
    assert loaded.resize == detector.resize and loaded.model.config == detector.model.config
    for name, tensor in detector.model.state_dict().items():
        kept = loaded.model.state_dict()[name]
        expected = tensor.half().float() if tensor.dim() > 1 else tensor
        assert torch.equal(kept, expected), name
    sizes = [(tmp_path / name).stat().st_size for name in ("m.safetensors", "c.pt")]
    assert sizes[0] < 0.6 * sizes[1]


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "no model at"),
        (b"", "cannot be read"),
        (b"x" * 99, "cannot be read"),
        (safetensors.torch.save({"a": torch.zeros(2)}), "no model of this library"),
        (
            safetensors.torch.save({"a": torch.zeros(2)}, {"format": "ddetr-edu checkpoint 1"}),
            "does not fit",
        ),
    ],
)
def test_a_file_that_is_no_model_is_named(content, message, tmp_path):
    if content is not None:
        (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "m.safetensors")


@torch.no_grad()
def test_a_detr_comes_back_as_a_detr(image, tmp_path):
    config = DETRConfig.preset("detr_tiny", num_classes=2, d_model=32, n_queries=7)
    detector = Detector(DETR(config), ["cat", "dog"], ResizeConfig(64, 96)).eval()
    save(tmp_path / "c.pt", detector)
    loaded = load(tmp_path / "c.pt")
    assert isinstance(loaded.model, DETR) and loaded.model.config == config
    for name, values in detector([image])[0].items():
        assert torch.equal(loaded([image])[0][name], values), name


def test_extra_entries_are_kept(detector, tmp_path):
    save(tmp_path / "c.pt", detector, step=17, metrics={"AP": 0.25})
    content = safe_load(tmp_path / "c.pt")
    assert content["step"] == 17 and content["metrics"] == {"AP": 0.25}


def test_only_the_checkpoint_is_left_and_other_users_may_read_it(detector, tmp_path):
    save(tmp_path / "c.pt", detector)
    save(tmp_path / "c.pt", detector)
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]
    (tmp_path / "plain").write_text("")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("c.pt", "plain")}
    assert len(modes) == 1


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), RuntimeError("unexpected pos"), KeyboardInterrupt()],
)
@pytest.mark.parametrize("step", ["write", "replace", "sync"])
def test_a_write_that_fails_leaves_the_old_file(detector, tmp_path, monkeypatch, step, error):
    path = tmp_path / "c.pt"
    save(path, detector, step=1)
    before = path.read_bytes()

    def fail(*args, **kwargs):
        if step == "write":
            args[1].write(b"half of it")
        raise error

    target = {"write": (torch, "save"), "replace": (os, "replace"), "sync": (os, "fsync")}[step]
    monkeypatch.setattr(*target, fail)
    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else OSError
    with pytest.raises(expected) as raised:
        save(path, detector, step=2)
    if expected is OSError:
        assert "c.pt could not be written" in str(raised.value)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


def test_a_folder_that_cannot_be_written_to_is_named(detector, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        save(tmp_path / "file" / "c.pt", detector)


# Files that are no checkpoint -------------------------------------------------------------------


class Trap:
    """Creates a folder when it is unpickled without safety."""

    def __init__(self, victim):
        self.victim = str(victim)

    def __reduce__(self):
        return os.mkdir, (self.victim,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", ["torch", "torch, old format", "pickle"])
def test_code_in_a_file_is_not_executed(tmp_path, how):
    path, victim = tmp_path / "c.pt", tmp_path / "executed"
    content = {"format": "ddetr-edu checkpoint 1", "model": Trap(victim)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(CheckpointError, match="c.pt is not a checkpoint that can be read safely"):
        load(path)
    assert not victim.exists()
    torch.load(path, weights_only=False) if how != "pickle" else pickle.loads(path.read_bytes())
    assert victim.exists()  # the trap works


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"X",
        b".6y",
        b"import os\n",
        b"{}",
        b"\x89PNG\r\n\x1a\n" + bytes(50),
        b"PK\x03\x04" + bytes(40),
        pickle.dumps({"a": 1}),
        bytes(range(256)),
    ],
    ids=["empty", "text", "letter", "pops", "python", "json", "png", "zip", "pickle", "bytes"],
)
def test_a_file_of_another_kind_is_named(tmp_path, content):
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match="c.pt is not a checkpoint") as refused:
        load(tmp_path / "c.pt")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_is_named(detector, tmp_path, share):
    save(tmp_path / "c.pt", detector)
    whole = (tmp_path / "c.pt").read_bytes()
    (tmp_path / "c.pt").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match="c.pt is not a checkpoint"):
        load(tmp_path / "c.pt")


@pytest.mark.parametrize("content", [{"model": {}}, [1, 2], torch.zeros(3), {"format": "other 3"}])
def test_a_torch_file_of_another_program_is_told_apart(tmp_path, content):
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="c.pt is a torch file but not a checkpoint of this"):
        load(tmp_path / "c.pt")


@pytest.mark.parametrize("name", ["missing.pt", "."])
def test_a_missing_checkpoint_is_named(tmp_path, name):
    with pytest.raises(CheckpointError, match="there is no checkpoint at .*ddetr train"):
        load(tmp_path / name)


def drop(name):
    return lambda content: content.pop(name)


@pytest.mark.parametrize(
    "damage",
    [
        drop("model"),
        drop("config"),
        drop("categories"),
        drop("resize"),
        lambda c: c["config"].update(n_heads=7),
        lambda c: c["config"].update(from_the_future=1),
        lambda c: c["config"].update(d_model=32),
        lambda c: c["model"].popitem(),
        lambda c: c["categories"].popitem(),
    ],
    ids=[
        "no model",
        "no config",
        "no categories",
        "no resize",
        "heads",
        "future",
        "width",
        "parameter missing",
        "category missing",
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_sentence(detector, tmp_path, damage):
    save(tmp_path / "c.pt", detector)
    content = torch.load(tmp_path / "c.pt", weights_only=True)
    damage(content)
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="c.pt does not fit this version") as refused:
        load(tmp_path / "c.pt")
    assert "\n" not in str(refused.value)
