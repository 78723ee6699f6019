"""`ddetr doctor`: a report that is right about this machine and about what is missing."""

import platform

import pytest
import torch

from ddetr_edu.attention import MSDeformAttn, backends
from ddetr_edu.attention.kernels import cuda
from ddetr_edu.attention.kernels.build import BuildError
from ddetr_edu.cli import doctor


def test_the_report_names_everything():
    lines = list(doctor.examine())
    report = {line.split()[0]: line for line in lines}
    for name in ("ddetr-edu", "python", "libraries", "lessons", "processor", "gpu", "attention"):
        assert name in report
    assert platform.python_version() in report["python"]
    for library in doctor.LIBRARIES:
        assert f"{library} {doctor.version(library)}" in report["libraries"]
    assert "MISSING" not in report["libraries"]
    assert "works, forwards and backwards" in report["attention"]
    for name, backend in backends().items():
        assert report[name].strip().startswith(name) and str(backend) in report[name]


def test_a_library_that_is_not_installed_is_called_missing():
    assert doctor.version("no-such-library-anywhere") == "MISSING"


def test_lessons_without_jupyter_say_what_to_run(monkeypatch):
    monkeypatch.setattr(doctor, "FOR_LESSONS", ("torch", "no_such_module"))
    assert doctor.lessons() == "no_such_module not installed; run: uv sync"


def test_an_installed_wheel_knows_no_uv_sync(monkeypatch, tmp_path):
    (tmp_path / "lessons").mkdir()
    monkeypatch.setattr(doctor, "find_shipped", tmp_path.joinpath)
    monkeypatch.setattr(doctor, "FOR_LESSONS", ("torch", "no_such_module"))
    assert doctor.lessons() == "no_such_module not installed; run: pip install no_such_module"
    monkeypatch.setattr(doctor, "FOR_LESSONS", ("torch",))
    assert doctor.lessons() == (
        "ready; run: ddetr course copy my-course, and then: jupyter lab my-course"
    )


@pytest.mark.parametrize("available", [False, True])
def test_gpus_are_named(monkeypatch, available):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: f"card {i}")
    assert doctor.gpu() == "card 0, card 1" if available else "CPU" in doctor.gpu()


def test_an_attention_that_gives_nan_is_reported(monkeypatch):
    monkeypatch.setattr(
        MSDeformAttn, "forward", lambda self, q, r, value, shapes: value * torch.nan
    )
    assert doctor.attention() == "gives numbers that are not finite"


def test_a_gpu_whose_kernel_cannot_be_compiled_is_explained(monkeypatch):
    problem = BuildError("NVRTC failed for sm_00", "line 7: unknown identifier")
    monkeypatch.setattr(cuda, "unavailable_reason", lambda: problem)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "unknown identifier" not in "\n".join(doctor.examine())  # no GPU, nothing to fix
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(doctor, "gpu", lambda: "card 0")
    report = "\n".join(doctor.examine())
    assert "cuda         not here: NVRTC failed for sm_00" in report
    assert "attention on the GPU runs on grid_sample" in report
    assert "line 7: unknown identifier" in report
