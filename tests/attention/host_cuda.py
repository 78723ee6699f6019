"""The CUDA kernel on the CPU: csrc/ms_deform_attn.cu through csrc/host_cuda.h.

It is called by the library's own `plan`, `forward` and `backward`; only `launch` is replaced.
"""

import ctypes
import subprocess
from pathlib import Path

import pytest
import torch

from ddetr_edu.attention import ms_deform_attn
from ddetr_edu.attention.kernels import build, cuda
from ddetr_edu.attention.kernels.cuda_build import TYPES
from ddetr_edu.attention.kernels.cuda_plan import Arguments, Plan, choose_kernel
from ddetr_edu.attention.kernels.torch_library import flatten_shapes

DRIVER = Path(__file__).with_suffix(".cpp")
# Kernels read one array as several types, which needs -fno-strict-aliasing; NVRTC implies it.
FLAGS = ("-std=c++17", "-fno-strict-aliasing", "-Wno-unknown-pragmas", f"-I{DRIVER.parent}")
# The kernels that `choose_kernel` can choose: direction, type, and the numbers of `NUMBERS`.
NUMBERS = ("vector", "lanes", "queries", "heads", "entries")
ALL = list(
    dict.fromkeys(
        (direction, TYPES[dtype], *(getattr(kernel, number) for number in NUMBERS))
        for dtype in TYPES
        for direction in ("forward", "backward")
        for channels in (1, 2, 4, 8, 16, 32, 64, 128)
        for n_heads in (1, 2)
        for queries_are_tokens in (False, True)
        for kernel in [choose_kernel(direction, dtype, n_heads, channels, queries_are_tokens)]
    )
)


class HostLaunch:
    """Replaces `cuda.launch`. Every launch runs its blocks in another order."""

    def __init__(self, library: Path):
        self.run = ctypes.CDLL(str(library)).run_on_host
        self.launches = 0

    def __call__(self, work: Plan, device: torch.device, **arrays: torch.Tensor):
        for name in ("output", "grad_locations", "grad_weights"):
            if name in arrays:  # nothing may be left as it is
                arrays[name].fill_(torch.nan)
        addresses = {name: array.data_ptr() for name, array in arrays.items()}
        self.run_plan(work, work.arguments(addresses))

    def run_plan(self, work: Plan, arguments: Arguments):
        self.launches += 1
        message = ctypes.create_string_buffer(500)
        kernel = work.kernel
        status = self.run(
            kernel.direction.encode(),
            TYPES[kernel.dtype].encode(),
            *(getattr(kernel, number) for number in NUMBERS),
            *work.grid,
            self.launches,
            ctypes.byref(arguments),
            ctypes.sizeof(arguments),
            message,
            len(message),
        )
        if status:
            raise RuntimeError(message.value.decode())


def run_on_the_host(monkeypatch, library: Path) -> HostLaunch:
    """Let `cuda.forward` and `cuda.backward` run on the CPU."""
    launch = HostLaunch(library)
    monkeypatch.setattr(cuda, "launch", launch)
    return launch


class Attention(torch.autograd.Function):
    """The operation as torch_library.py defines it, with the present `cuda.launch`."""

    @staticmethod
    def forward(ctx, value, flat_spatial_shapes, locations, weights):
        ctx.flat_spatial_shapes = flat_spatial_shapes
        ctx.save_for_backward(value, locations, weights)
        return cuda.forward(value, flat_spatial_shapes, locations, weights)

    @staticmethod
    def backward(ctx, grad):
        value, locations, weights = ctx.saved_tensors
        grads = cuda.backward(grad, value, ctx.flat_spatial_shapes, locations, weights)
        return grads[0], None, grads[1], grads[2]


def attention(value, levels, locations, weights):
    return Attention.apply(value, flatten_shapes(levels), locations, weights)


def build_host_library(folder: Path, cases, flags=("-O1",), edits=()) -> Path:
    """Compile csrc/ with some text replaced; each of `edits` is (file, old text, new text)."""
    for source in build.source_folder().glob("*.*"):
        text = source.read_text()
        for file, old, new in edits:
            if file == source.name:
                assert old in text, f"{file} no longer contains {old!r}"
                text = text.replace(old, new)
        (folder / source.name).write_text(text)
    library = folder / f"host_cuda{build.suffix()}"
    listed = " ".join(f"CASE({','.join(map(str, case))})" for case in cases)
    command = [
        *build.find_compiler(),
        *FLAGS,
        *flags,
        f"-I{folder}",
        f"-DHOST_CUDA_CASES={listed}",
        "-shared",
        "-fPIC",
        str(DRIVER),
        "-o",
        str(library),
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    if "cannot find" in result.stderr:
        pytest.skip(f"this compiler has no sanitizers: {result.stderr.splitlines()[0]}")
    assert result.returncode == 0, result.stderr[-3000:]
    return library


def output_and_gradients(run, value, levels, locations, weights):
    """The output of the operation, and the gradients of its three inputs.

    `run` is `attention`, or the name of a backend.
    """
    inputs = [tensor.detach().clone().requires_grad_() for tensor in (value, locations, weights)]
    if isinstance(run, str):
        output = ms_deform_attn(inputs[0], levels, inputs[1], inputs[2], backend=run)
    else:
        output = run(inputs[0], levels, inputs[1], inputs[2])
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)
    return [output.detach(), *torch.autograd.grad(output, inputs, grad)]


def assert_agree(inputs, tolerance, peer="grid_sample"):
    """`attention`'s output and gradients equal those of another backend."""
    names = ("output", "gradient of value", "gradient of locations", "gradient of weights")
    results = output_and_gradients(attention, *inputs), output_and_gradients(peer, *inputs)
    for name, result, reference in zip(names, *results, strict=True):
        assert result.dtype == reference.dtype and result.shape == reference.shape, name
        error = (result - reference).abs().max() / reference.abs().max().clamp_min(1e-30)
        assert error <= tolerance, f"{name}: relative error {error:.1e}"
