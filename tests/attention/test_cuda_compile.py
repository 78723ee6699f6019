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
SHARED = 48 << 10  # bytes that every GPU gives to a block


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
    source = (build.source_folder() / "cuda_point.h").read_text()
    assert f"MAX_LEVELS = {cuda_plan.MAX_LEVELS};" in source
    assert f"TILE_WIDTH = {cuda_plan.TILE_WIDTH};" in source


def test_python_and_the_kernel_declare_the_same_arguments():
    """Field by field: the names, their order and their types."""
    source = (build.source_folder() / "cuda_point.h").read_text()
    body = re.search(r"struct Arguments \{(.*?)\n\};", source, re.DOTALL)[1]
    fields = []
    for declaration in re.sub(r"//.*", "", body).split(";"):
        if not declaration.strip():
            continue
        type_name, names = re.fullmatch(
            r"\s*(const void|void|long long|int|unsigned) (.*)", declaration, re.DOTALL
        ).groups()
        for name in names.split(","):
            star, name, array = re.fullmatch(r"\s*(\*?)(\w+)(\[MAX_LEVELS\])?\s*", name).groups()
            assert bool(star) == type_name.endswith("void")
            c_type = {
                "long long": ctypes.c_longlong,
                "int": ctypes.c_int,
                "unsigned": ctypes.c_uint,
            }.get(type_name, ctypes.c_void_p)
            fields.append((name, c_type * cuda_plan.MAX_LEVELS if array else c_type))
    assert fields == cuda_plan.Arguments._fields_


def test_the_cache_depends_on_every_file_that_a_kernel_includes():
    sources = [(build.source_folder() / cuda_build.SOURCE).read_text()]
    included: set[str] = set()
    while sources:
        names = set(re.findall(r'#include "(.*)"', sources.pop())) - included
        included |= names
        sources += [(build.source_folder() / name).read_text() for name in names]
    assert included == set(cuda_build.HEADERS)


def spills_allowed(kernel: cuda_plan.Kernel) -> int:
    """Bytes of local memory. An encoder's kernels trade registers for more threads."""
    narrow = kernel.direction == "backward" and kernel.dtype.itemsize == 2
    return 64 if narrow and kernel.queries * kernel.lanes >= 256 else 0


@pytest.mark.parametrize("queries_are_tokens", [True, False])
@pytest.mark.parametrize("arch", ["sm_80", "sm_100"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_fast_paths_fit_before_and_after_hopper(direction, dtype, arch, queries_are_tokens):
    kernel = kernel_for(direction, dtype, 32, queries_are_tokens)
    _, counts = compile_and_count(kernel, arch)
    # These were tuned on Hopper; elsewhere a few bytes more are no harm.
    assert counts["spilled"] <= spills_allowed(kernel) + (8 if queries_are_tokens else 0)
    assert counts["registers"] <= 128 and counts["shared"] <= SHARED


@pytest.mark.parametrize(
    "channels, queries_are_tokens", [(32, True), (64, True), (16, False), (32, False), (64, False)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_fast_paths_on_hopper(tmp_path, nvdisasm, direction, dtype, channels, queries_are_tokens):
    kernel = kernel_for(direction, dtype, channels, queries_are_tokens)
    code, counts = compile_and_count(kernel, "sm_90")
    assert counts["spilled"] <= spills_allowed(kernel)
    assert counts["registers"] <= 65536 // (kernel.threads * kernel.blocks)
    assert counts["shared"] <= SHARED
    (tmp_path / "cubin").write_bytes(code)
    listing = subprocess.run(
        [nvdisasm, "-c", str(tmp_path / "cubin")], capture_output=True, text=True, check=True
    ).stdout

    def count(instruction: str) -> int:
        return len(re.findall(rf"(?<![.\w]){instruction}\b", listing))

    backward = direction == "backward"
    # Four corners of up to four points; or a pixel and a gradient for each entry of the list.
    points = min(4, kernel.lanes)
    rows = 2 * kernel.entries if backward else 4 * points
    width = 64 if backward and dtype != torch.float32 else 128  # 4 channels' bits
    # Locations take one load of 64 bits.
    assert count(rf"LDG\.E\.{width}\.CONSTANT") >= rows + (width == 64)
    # A point's four offsets, its four coefficients and an entry of the list take one load each.
    assert count(r"LDS\.128") >= (kernel.entries if backward else 2 * points)
    # A pixel's gradient is added when an entry has another pixel, and at the end. Entries are
    # counted for each corner, and room for them is reserved.
    added = count(r"RED\w*\.E\.ADD\.F32x4[.\w]*")
    assert added == (kernel.entries + 1 if backward else 0)
    assert count(r"RED\w*\.[.\w]+") == added and count(r"ATOMG?\.[.\w]+") == 0
    assert (count(r"ATOMS\.ADD") >= 5) if backward else (count(r"ATOMS[.\w]*") == 0)
    assert bool(count(r"BAR\.[.\w]+")) == backward  # groups of lanes work alone in forward
    if not spills_allowed(kernel):
        assert not count(r"(?:LDL|STL)[.\w]*")  # no local memory
    assert not count(r"(?:DADD|DMUL|DFMA)[.\w]*")  # no stray 64-bit arithmetic


@pytest.mark.parametrize("direction, dtype, channels", ODD)
def test_other_kernels_compile_too(direction, dtype, channels):
    code, counts = compile_and_count(kernel_for(direction, dtype, channels), "sm_90")
    assert code.startswith(b"\x7fELF") and counts["registers"] <= 255


def test_a_broken_source_is_quoted(tmp_path, monkeypatch):
    for name in (*cuda_build.HEADERS, cuda_build.SOURCE):
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
    for name in (*cuda_build.HEADERS, cuda_build.SOURCE):
        (sources / name).write_text("first")
    monkeypatch.setattr(cuda_build, "source_folder", lambda: sources)
    codes = [cuda_build.cubin(kernel, "sm_90") for _ in range(2)]
    assert codes == [b"code", b"code"] and len(compiled) == 1
    assert cuda_build.cached_cubin(kernel, "sm_90").read_bytes() == b"code"
    cuda_build.cubin(other, "sm_90")
    cuda_build.cubin(kernel, "sm_80")
    for name in cuda_build.HEADERS:
        (sources / name).write_text("second")
        cuda_build.cubin(kernel, "sm_90")
    monkeypatch.setattr(cuda_build, "nvrtc_version", lambda: (99, 0))
    cuda_build.cubin(kernel, "sm_90")
    assert len(compiled) == 4 + len(cuda_build.HEADERS)
    assert len(list((tmp_path / "cache").rglob("*.cubin"))) == len(compiled)


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
