"""Compile, check and time the CUDA kernels in one go, since time on a GPU is short.

    PYTHONPATH=. python benchmarks/gpu.py            # all of it, within --minutes
    PYTHONPATH=. python benchmarks/gpu.py --check    # correctness only

Compares every dtype with the definition in fp64, measures what the memory can do, and then times
the attention: our kernel, grid_sample, compiled grid_sample and every peer that can be imported
take turns. Where compute-sanitizer is installed, it runs at the end. Prints a table and writes
results/gpu.json after each case, so that nothing is lost when time runs out.

Needs torch and cuda-core, and of this repository only csrc/ and, of ddetr_edu, __init__.py,
files.py and attention/.
"""

import argparse
import ctypes
import functools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch

from ddetr_edu.attention import benchmark as bench
from ddetr_edu.attention import ms_deform_attn
from ddetr_edu.attention.kernels import cuda

OUT = Path(__file__).parent / "results" / "gpu.json"
DEVICE = "cuda"
REPEATS = 10  # calls in one CUDA graph, so that launching it does not count
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# The most important first: time may run out.
CASES = [
    (shape, spread, dtype)
    for shape in ("encoder", "decoder")
    for spread in ("gaussian", "initial", "uniform")
    for dtype in DTYPES
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="check correctness only")
    parser.add_argument("--minutes", type=float, default=8, help="start no case after this time")
    parser.add_argument("--rounds", type=int, default=15, help="how often each case is timed")
    parser.add_argument("--images", type=int, default=2, help="the batch size N")
    parser.add_argument("--no-sanitizer", action="store_true", help="do not run compute-sanitizer")
    parser.add_argument("--no-compile", action="store_true", help="do not time torch.compile")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    started = time.monotonic()
    problem = cuda.unavailable_reason()
    if problem is not None:
        print(f"nothing to measure: {problem}", file=sys.stderr)
        return 1

    results = {"machine": machine()}
    print(", ".join(f"{name} {value}" for name, value in results["machine"].items()))
    results["errors"] = {
        name: check(dtype) for name, dtype in {**DTYPES, "fp64": torch.float64}.items()
    }
    for name, errors in results["errors"].items():
        print(
            f"{name}: largest relative errors "
            + ", ".join(f"{w} {e:.1e}" for w, e in errors.items())
        )
    correct = all(
        error <= TOLERANCE[name] for name, e in results["errors"].items() for error in e.values()
    )
    print("correct in every dtype" if correct else "WRONG: an error above is too large")
    if options.check:
        return 0 if correct else 1
    results["correct"] = correct

    results["ceilings"] = attempt("ceilings", ceilings) or {}
    print(", ".join(f"{name} {number:.4g}" for name, number in results["ceilings"].items()))
    results["cases"] = []
    print(HEADINGS)
    for shape, spread, dtype in CASES:
        if time.monotonic() - started > options.minutes * 60:
            print(f"out of time before {shape}, {spread}, {dtype}")
            break
        for case in measure(shape, spread, dtype, options, results["ceilings"]):
            results["cases"].append(case)
            print(row(case))
        write(results, options.out)
    if not options.no_sanitizer:
        results["sanitizers"] = {
            tool: attempt(tool, functools.partial(sanitize, tool))
            for tool in ("memcheck", "racecheck")
        }
        print(f"compute-sanitizer: {results['sanitizers']}")
    write(results, options.out)
    return 0 if correct else 1


def attempt(what: str, work: Callable):
    """The result of optional work; if it fails, None, and a line that says why."""
    try:
        return work()
    except Exception as error:
        print(f"{what} failed: {type(error).__name__}: {str(error).splitlines()[:1]}")
        return None


def write(results: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")


def machine() -> dict:
    properties = torch.cuda.get_device_properties(0)
    return {
        "date": date.today().isoformat(),
        "gpu": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "kernel": cuda.description(),
    }


# ---- Correctness ----

TOLERANCE = {"fp64": 1e-12, "fp32": 1e-5, "fp16": 1e-3, "bf16": 8e-3}


def check(dtype: torch.dtype) -> dict[str, float]:
    """The errors of one dtype, compared with the definition in fp64 on the CPU.

    One level is a single pixel, a third of the locations lie outside, and none lies next to the row
    or the column of a pixel centre, where the gradient is discontinuous.

    Args:
        dtype: Of value and output.

    Returns:
        The largest errors of output and gradients, each relative to the largest magnitude.
    """
    generator = torch.Generator().manual_seed(0)
    levels = [(7, 9), (3, 2), (1, 1)]
    n_tokens = sum(height * width for height, width in levels)
    errors = dict.fromkeys(("output", "value", "locations", "weights"), 0.0)
    for channels, n_queries in ((32, 13), (64, 3), (16, 3), (7, 3), (8, n_tokens)):
        points = (1, n_queries, 2, len(levels), 3)
        sizes = torch.tensor([(w, h) for h, w in levels], dtype=torch.float64)[:, None]
        pixels = torch.rand(*points, 2, generator=generator, dtype=torch.float64)
        pixels = (pixels * 1.6 - 0.3) * sizes - 0.5
        pixels = pixels.floor() + 0.05 + 0.9 * (pixels - pixels.floor())
        coord_dtype = dtype if dtype == torch.float64 else torch.float32
        value = torch.randn(1, n_tokens, 2, channels, generator=generator, dtype=torch.float64)
        value, locations = value.to(dtype), ((pixels + 0.5) / sizes).to(coord_dtype)
        weights = torch.rand(points, generator=generator).to(coord_dtype)
        grad = torch.randn(1, n_queries, 2 * channels, generator=generator).to(dtype)

        def run(backend, move, value=value, locations=locations, weights=weights, grad=grad):
            inputs = [move(t.detach()).requires_grad_() for t in (value, locations, weights)]
            output = ms_deform_attn(inputs[0], levels, inputs[1], inputs[2], backend)
            return [output.detach(), *torch.autograd.grad(output, inputs, move(grad))]

        ours = run("cuda", lambda t: t.to(DEVICE))
        expected = run("naive", lambda t: t.double())
        for name, got, reference in zip(errors, ours, expected, strict=True):
            error = (got.double().cpu() - reference).abs().max() / reference.abs().max()
            errors[name] = max(errors[name], float(error) if error == error else float("inf"))
    return errors


def sanitize(tool: str) -> str:
    """Run `--check` under compute-sanitizer: "clean", or the end of its output."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        return "no compute-sanitizer on PATH"
    result = subprocess.run(
        [program, "--tool", tool, "--error-exitcode", "9", sys.executable, __file__, "--check"],
        capture_output=True,
        text=True,
        timeout=240,
        # Every tensor gets its own allocation, so that accesses out of bounds are noticed.
        env={**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
    )
    return "clean" if result.returncode == 0 else (result.stdout + result.stderr)[-1500:]


# ---- Ceilings: the memory's throughput ----

# A group of 8 lanes adds to, or reads, rows of 32 floats in a scattered order.
CEILINGS = r"""
__device__ unsigned scatter(unsigned x) {
  x ^= x >> 16; x *= 0x7feb352dU; x ^= x >> 15; x *= 0x846ca68bU;
  return x ^ x >> 16;
}
extern "C" __global__ void adds(float4* rows, unsigned count, int rounds, float4*) {
  const unsigned thread = blockIdx.x * blockDim.x + threadIdx.x;
  for (int i = 0; i < rounds; ++i) {
    float4* to = rows + __umulhi(scatter(thread / 8 * rounds + i), count) * 8 + thread % 8;
#if __CUDA_ARCH__ >= 900
    atomicAdd(to, float4{1, 1, 1, 1});
#else
    atomicAdd(&to->x, 1.f); atomicAdd(&to->y, 1.f); atomicAdd(&to->z, 1.f); atomicAdd(&to->w, 1.f);
#endif
  }
}
extern "C" __global__ void reads(const float4* rows, unsigned count, int rounds, float4* sink) {
  const unsigned thread = blockIdx.x * blockDim.x + threadIdx.x;
  float4 sum = {};
#pragma unroll 8
  for (int i = 0; i < rounds; ++i) {
    const float4 row = __ldg(rows + (thread / 8 * 7 + i * 5 & count - 1) * 8 + thread % 8);
    sum.x += row.x; sum.y += row.y; sum.z += row.z; sum.w += row.w;
  }
  if (sum.x == 12345.f) sink[thread] = sum;
}
"""


def ceilings() -> dict[str, float]:
    """The throughput of copies (read and written), of reads from L1, and of atomic adds."""
    from cuda.core import ObjectCode, Program, ProgramOptions

    source = torch.empty(2**28, device=DEVICE)
    target = torch.empty_like(source)
    copy = median_ms(lambda: target.copy_(source), 10)
    throughput = {"copy_TB_s": 2 * source.nbytes / copy / 1e9}
    program = Program(CEILINGS, "c++", ProgramOptions(arch=cuda.architecture(0), std="c++17"))
    code = ObjectCode.from_cubin(program.compile("cubin").code)
    blocks, threads, rounds = 4096, 256, 64

    def run(name: str, count: int) -> float:
        kernel = code.get_kernel(name)
        numbers = (
            ctypes.c_void_p(target.data_ptr()),
            ctypes.c_uint(count),
            ctypes.c_int(rounds),
            ctypes.c_void_p(source.data_ptr()),
        )
        parameters = (ctypes.c_void_p * 4)(*(ctypes.addressof(number) for number in numbers))

        def launch():
            (status,) = cuda.driver().cuLaunchKernel(
                int(kernel.handle),
                *(blocks, 1, 1),
                *(threads, 1, 1),
                0,
                torch.cuda.current_stream().cuda_stream,
                ctypes.addressof(parameters),
                0,
            )
            if status != 0:
                raise RuntimeError(f"{status!r}")

        return median_ms(launch, 10)

    numbers = blocks * threads * rounds * 4
    throughput["gather_TB_s"] = numbers * 4 / run("reads", 128) / 1e9  # 16 KiB: stays in L1
    target.zero_()
    throughput["adds_G_s"] = numbers / run("adds", 2 * 8 * 19947) / 1e6  # the encoder's gradient
    return throughput


# ---- Speed ----


def implementations(spread: str, dtype: str, with_compile: bool) -> dict[str, Callable]:
    """Name -> function of (value, levels, locations, weights), for each that is timed."""
    found = {
        "cuda": functools.partial(ms_deform_attn, backend="cuda"),
        "grid_sample": functools.partial(ms_deform_attn, backend="grid_sample"),
    }
    # Compiling takes a minute each time.
    if with_compile and spread == "gaussian" and dtype in ("fp32", "bf16"):
        found["compiled"] = compiled_grid_sample()
    return {**found, **peers()}


@functools.cache
def compiled_grid_sample() -> Callable:
    """The grid_sample backend under torch.compile."""
    # One for each shape and dtype, with and without gradients.
    torch._dynamo.config.cache_size_limit = 64
    return torch.compile(functools.partial(ms_deform_attn, backend="grid_sample"), dynamic=False)


@functools.cache
def peers() -> dict[str, Callable]:
    """Other implementations that can be imported, with the arguments of `ms_deform_attn`."""
    found = {}

    def shapes_and_starts(levels):
        shapes = torch.tensor(levels, device=DEVICE)
        return shapes, torch.cat([shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]])

    cached = functools.lru_cache(lambda levels: shapes_and_starts(levels))

    try:
        import MultiScaleDeformableAttention as official

        class Official(torch.autograd.Function):
            @staticmethod
            def forward(ctx, value, shapes, starts, locations, weights):
                ctx.save_for_backward(value, shapes, starts, locations, weights)
                return official.ms_deform_attn_forward(
                    value, shapes, starts, locations, weights, 64
                )

            @staticmethod
            def backward(ctx, grad):
                grads = official.ms_deform_attn_backward(*ctx.saved_tensors, grad.contiguous(), 64)
                return grads[0], None, None, grads[1], grads[2]

        found["official"] = lambda v, levels, x, w: Official.apply(v, *cached(tuple(levels)), x, w)
    except ImportError:
        pass
    try:
        from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction as mmcv

        found["mmcv"] = lambda v, levels, x, w: mmcv.apply(v, *cached(tuple(levels)), x, w, 64)
    except ImportError:
        pass
    try:
        from msda_triton.frontend import triton_multiscale_deformable_attention as triton

        found["msda-triton"] = lambda v, levels, x, w: triton(
            v, cached(tuple(levels))[0], x, w, "zeros", False
        ).flatten(-2)
    except ImportError:
        pass
    return found


def measure(shape: str, spread: str, dtype: str, options, ceilings: dict) -> list[dict]:
    """Time every implementation and direction on one input; they take turns.

    Args:
        shape: "encoder" or "decoder".
        spread: How locations are distributed: "gaussian", "initial" or "uniform".
        dtype: Of value, a key of DTYPES.
        options: The arguments of the command line.
        ceilings: From `ceilings`.

    Returns:
        An entry of the results' JSON for each implementation and direction.
    """
    value, levels, locations, weights = bench.make_inputs(
        options.images, bench.QUERIES[shape], spread
    )
    value = value.to(DEVICE, DTYPES[dtype])
    locations, weights = locations.to(DEVICE), weights.to(DEVICE)
    works = {}
    for implementation, function in implementations(spread, dtype, not options.no_compile).items():
        made = attempt(
            f"{implementation}, {shape}, {dtype}",
            functools.partial(works_of, function, value, levels, locations, weights),
        )
        works |= {(implementation, direction): work for direction, work in (made or {}).items()}
    times = {key: [] for key in works}
    for turn in range(options.rounds + 1):  # the first round warms up
        for key, work in works.items():
            milliseconds = median_ms(work, 1, warm_up=0) / REPEATS
            if turn > 0:
                times[key].append(milliseconds)
    medians = {key: statistics.median(of) for key, of in times.items()}
    bounds = lower_bounds_ms(value, locations, ceilings)
    return [
        {
            "shape": shape,
            "locations": spread,
            "dtype": dtype,
            "implementation": key[0],
            "direction": key[1],
            "median_us": round(median * 1000, 2),
            "min_us": round(min(times[key]) * 1000, 2),
            "max_us": round(max(times[key]) * 1000, 2),
            "times_grid_sample": round(medians.get(("grid_sample", key[1]), 0) / median, 2),
            "percent_of_ceiling": {
                name: round(100 * bound / median) for name, bound in bounds[key[1]].items()
            },
        }
        for key, median in medians.items()
    ]


def works_of(function: Callable, value, levels, locations, weights) -> dict[str, Callable]:
    """Direction -> a function that runs that direction REPEATS times."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (value, locations, weights)]

    def forward():
        with torch.no_grad():
            return function(value, levels, locations, weights)

    def both():
        output = function(leaves[0], levels, leaves[1], leaves[2])
        return torch.autograd.grad(output, leaves, torch.ones_like(output))

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # the backward pass runs on the stream of its forward pass
        output = function(leaves[0], levels, leaves[1], leaves[2])
        grad_output = torch.ones_like(output)
    torch.cuda.synchronize()

    def backward():
        return torch.autograd.grad(output, leaves, grad_output, retain_graph=True)

    return {
        name: recorded(work, stream)
        for name, work in (("forward", forward), ("backward", backward), ("both", both))
    }


def recorded(work: Callable, stream: torch.cuda.Stream) -> Callable:
    """A function that does the work REPEATS times: a CUDA graph, or a loop if it has none."""
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=stream):
            for _ in range(REPEATS):
                work()
    except RuntimeError as error:
        torch.cuda.synchronize()
        print(f"no CUDA graph, timed call by call: {str(error).splitlines()[0]}")
        return lambda: [work() for _ in range(REPEATS)]
    return graph.replay


def median_ms(work: Callable, repeats: int, warm_up: int = 2) -> float:
    """The median milliseconds of the work, between two CUDA events."""
    for _ in range(warm_up):
        work()
    pairs = []
    for _ in range(repeats):
        pair = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        pair[0].record()
        work()
        pair[1].record()
        pairs.append(pair)
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in pairs)


def lower_bounds_ms(value, locations, ceilings: dict) -> dict[str, dict[str, float]]:
    """How long each direction would take if it were limited by one ceiling only.

    copy: every input is read once and every output written once. gather: four rows for each point
    are read from the L1 cache. adds: four rows for each point are added to the gradient.

    Args:
        value: (N, S, M, D).
        locations: (N, Lq, M, L, P, 2).
        ceilings: From `ceilings`.

    Returns:
        Direction -> ceiling -> milliseconds.
    """
    _, _, n_heads, channels = value.shape
    n_images, n_queries = locations.shape[:2]
    output = n_images * n_queries * n_heads * channels * value.element_size()
    locations_and_weights = locations.nbytes * 3 // 2
    corners = locations.numel() // 2 * 4 * channels
    read = value.nbytes + locations_and_weights + output
    amounts = {
        "forward": {"copy_TB_s": read, "gather_TB_s": corners * value.element_size()},
        # The gradient of value is zeroed, added to, and rounded if it has 16 bits.
        "backward": {
            "copy_TB_s": read + locations_and_weights + 2 * value.numel() * 4,
            "adds_G_s": corners,
        },
    }
    unit = {"copy_TB_s": 1e9, "gather_TB_s": 1e9, "adds_G_s": 1e6}  # per millisecond
    bounds = {
        direction: {
            name: amount / unit[name] / ceilings[name]
            for name, amount in of_direction.items()
            if name in ceilings
        }
        for direction, of_direction in amounts.items()
    }
    bounds["both"] = {}
    return bounds


HEADINGS = (
    f"{'shape':8} {'locations':9} {'dtype':5} {'implementation':14} {'direction':9} "
    f"{'median us':>10} {'min':>9} {'max':>9} {'x grid_sample':>13}  % of ceiling"
)


def row(case: dict) -> str:
    ceiling = ", ".join(f"{n.split('_')[0]} {p}" for n, p in case["percent_of_ceiling"].items())
    return (
        f"{case['shape']:8} {case['locations']:9} {case['dtype']:5} {case['implementation']:14} "
        f"{case['direction']:9} {case['median_us']:10.1f} {case['min_us']:9.1f} "
        f"{case['max_us']:9.1f} {case['times_grid_sample']:13.2f}  {ceiling}"
    )


if __name__ == "__main__":
    sys.exit(main())
