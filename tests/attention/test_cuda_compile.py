"""NVRTC compiles the kernels, also for absent GPUs, to the instructions that make them fast."""

import ctypes
import re
import runpy
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from ddetr_edu.attention.kernels import build, cuda, cuda_build, cuda_plan

PROGRAM = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/registers.py"))
compile_and_count, kernel_for = PROGRAM["compile_and_count"], PROGRAM["kernel_for"]
ODD = [
    ("forward", torch.float32, 7),
    ("backward", torch.bfloat16, 3),
    ("backward", torch.float64, 32),
]


@pytest.fixture(autouse=True)
def nvrtc():
    try:
        cuda_build.nvrtc_version()
    except build.BuildError as problem:
        pytest.skip(str(problem))


@pytest.fixture(scope="session")
def nvdisasm():
    """The disassembler of triton's wheel, which torch brings, or of a CUDA toolkit."""
    triton = find_spec("triton")
    bundled = Path(triton.origin).parent / "backends/nvidia/bin/nvdisasm" if triton else Path("-")
    found = str(bundled) if bundled.is_file() else shutil.which("nvdisasm")
    if not found:
        pytest.skip("no nvdisasm, neither in triton's wheel nor on PATH")
    return found


def test_python_and_the_kernel_agree_on_constants():
    source = (build.source_folder() / cuda_build.SOURCE).read_text()
    assert f"MAX_LEVELS = {cuda_plan.MAX_LEVELS};" in source
    assert f"TILE_WIDTH = {cuda_plan.TILE_WIDTH};" in source


def test_python_and_the_kernel_declare_the_same_arguments():
    """Field by field: the names, their order and their types."""
    source = (build.source_folder() / cuda_build.SOURCE).read_text()
    body = re.search(r"struct Arguments \{(.*?)\n\};", source, re.DOTALL)[1]
    fields = []
    for declaration in re.sub(r"//.*", "", body).split(";"):
        if not declaration.strip():
            continue
        type_name, names = re.fullmatch(
            r"\s*(const void|void|long long|int) (.*)", declaration, re.DOTALL
        ).groups()
        for name in names.split(","):
            star, name, array = re.fullmatch(r"\s*(\*?)(\w+)(\[MAX_LEVELS\])?\s*", name).groups()
            assert bool(star) == type_name.endswith("void")
            c_type = {"long long": ctypes.c_longlong, "int": ctypes.c_int}.get(
                type_name, ctypes.c_void_p
            )
            fields.append((name, c_type * cuda_plan.MAX_LEVELS if array else c_type))
    assert fields == cuda_plan.Arguments._fields_


@pytest.mark.parametrize("arch", ["sm_80", "sm_100"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_fast_paths_fit_into_registers_before_and_after_hopper(direction, dtype, arch):
    _, counts = compile_and_count(kernel_for(direction, dtype, 32), arch)
    assert counts["spilled"] == 0 and counts["stack"] == 0
    assert counts["registers"] <= 128


@pytest.mark.parametrize("channels", [16, 32, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_fast_paths_on_hopper(tmp_path, nvdisasm, direction, dtype, channels):
    kernel = kernel_for(direction, dtype, channels)
    code, counts = compile_and_count(kernel, "sm_90")
    assert counts["spilled"] == 0 and counts["stack"] == 0
    assert counts["registers"] <= 128
    (tmp_path / "cubin").write_bytes(code)
    listing = subprocess.run(
        [nvdisasm, "-c", str(tmp_path / "cubin")], capture_output=True, text=True, check=True
    ).stdout
    # Four corners of at least four points, or of every point that a group loads together.
    points = 4 if direction == "forward" else kernel.lanes
    width = 64 if direction == "backward" and dtype != torch.float32 else 128  # 4 channels' bits
    assert len(re.findall(rf"LDG\.E\.{width}\b", listing)) >= 4 * points
    vector_reductions = len(re.findall(r"RED\w*\.E\.ADD\.F32x4", listing))
    assert vector_reductions == (4 * points if direction == "backward" else 0)
    assert len(re.findall(r"\bRED\w*\.|\bATOM\w*\.", listing)) == vector_reductions
    assert not re.search(r"\b(LDL|STL)\b", listing)  # no local memory
    assert not re.search(r"\b(LDS|STS|BAR)\b", listing)  # no shared memory, no barriers
    if dtype != torch.float64:
        assert not re.search(r"\b(DADD|DMUL|DFMA)\b", listing)  # no stray 64-bit arithmetic


@pytest.mark.parametrize("direction, dtype, channels", ODD)
def test_other_kernels_compile_too(direction, dtype, channels):
    code, counts = compile_and_count(kernel_for(direction, dtype, channels), "sm_90")
    assert code.startswith(b"\x7fELF") and counts["registers"] <= 255


def test_a_broken_source_is_quoted(tmp_path, monkeypatch):
    for name in ("ms_deform_attn.h", cuda_build.SOURCE):
        (tmp_path / name).write_text((build.source_folder() / name).read_text())
    (tmp_path / cuda_build.SOURCE).write_text("a word it does not know\n")
    monkeypatch.setattr(cuda_build, "source_folder", lambda: tmp_path)
    with pytest.raises(build.BuildError, match="NVRTC failed for sm_90.*error") as caught:
        cuda_build.compile_cubin(kernel_for("forward", torch.float32, 32), "sm_90")
    assert "a word it does not know" in caught.value.output


def test_the_cache_keeps_a_cubin_for_each_source_kernel_and_gpu(tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cuda_build, "compile_cubin", lambda *what: compiled.append(what) or b"code")
    kernel, other = (kernel_for("forward", dtype, 32) for dtype in (torch.float32, torch.float16))
    sources = tmp_path / "csrc"
    sources.mkdir()
    for name in ("ms_deform_attn.h", cuda_build.SOURCE):
        (sources / name).write_text("first")
    monkeypatch.setattr(cuda_build, "source_folder", lambda: sources)
    codes = [cuda_build.cubin(kernel, "sm_90") for _ in range(2)]
    assert codes == [b"code", b"code"] and len(compiled) == 1
    assert cuda_build.cached_cubin(kernel, "sm_90").read_bytes() == b"code"
    cuda_build.cubin(other, "sm_90")
    cuda_build.cubin(kernel, "sm_80")
    (sources / "ms_deform_attn.h").write_text("second")
    cuda_build.cubin(kernel, "sm_90")
    monkeypatch.setattr(cuda_build, "nvrtc_version", lambda: (99, 0))
    cuda_build.cubin(kernel, "sm_90")
    assert len(compiled) == 5
    assert len(list((tmp_path / "cache").rglob("*.cubin"))) == 5


def test_a_cache_that_cannot_be_written_to_still_gives_code(tmp_path, monkeypatch):
    (tmp_path / "occupied").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "occupied"))
    monkeypatch.setattr(cuda_build, "compile_cubin", lambda *_: b"code")
    assert cuda_build.cubin(kernel_for("forward", torch.float32, 32), "sm_90") == b"code"


def test_a_damaged_cubin_is_compiled_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cuda, "architecture", lambda device: "sm_90")
    codes = [b"good", b"damaged"]
    monkeypatch.setattr(cuda_build, "compile_cubin", lambda *_: codes.pop())

    def load(code):
        if code == b"damaged":
            raise RuntimeError("CUDA_ERROR_INVALID_IMAGE")
        return cuda.LoadedKernel(1234, code)

    monkeypatch.setattr(cuda, "load_cubin", load)
    kernel = kernel_for("forward", torch.float32, 32)
    assert cuda.load.__wrapped__(kernel, 0).owner == b"good"
    codes[:] = [b"damaged", b"damaged"]
    next(tmp_path.rglob("*.cubin")).write_bytes(b"damaged")
    with pytest.raises(build.BuildError, match="cannot be loaded.*INVALID_IMAGE"):
        cuda.load.__wrapped__(kernel, 0)
