"""Build, check and measure the CUDA kernel in one go, since time on a GPU is short.

    PYTHONPATH=. python benchmarks/gpu.py            # all of it, within --minutes
    PYTHONPATH=. python benchmarks/gpu.py --check    # correctness alone

Compiles every kernel, compares each type with the definition in 64 bits, runs compute-sanitizer
where there is one, measures what the memory can do, and then the attention: ours, grid_sample,
compiled grid_sample and every peer that can be imported take turns. Prints a table and writes
results/gpu.json after each case, so that nothing is lost when time runs out.

Needs torch and cuda-core, and of this repository only ddetr_edu.attention and ddetr_edu.bench.
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

from ddetr_edu import bench
from ddetr_edu.attention import cuda, ms_deform_attn

OUT = Path(__file__).parent / "results" / "gpu.json"
DEVICE = "cuda"
REPEATS = 10  # in one graph, so that starting it does not count
TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Most important first: the time may run out.
CASES = [
    (shape, places, name)
    for shape in ("encoder", "decoder")
    for places in ("near", "initial", "anywhere")
    for name in TYPES
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only compare with the definition")
    parser.add_argument("--minutes", type=float, default=8, help="start no case after this long")
    parser.add_argument("--rounds", type=int, default=15, help="how often each is timed")
    parser.add_argument("--images", type=int, default=2, help="N")
    parser.add_argument("--no-sanitizer", action="store_true", help="leave compute-sanitizer out")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    started = time.monotonic()
    problem = cuda.why_not()
    if problem is not None:
        print(f"nothing to measure: {problem}", file=sys.stderr)
        return 1

    results = {"machine": machine()}
    print(", ".join(f"{name} {what}" for name, what in results["machine"].items()))
    results["errors"] = {
        name: check(dtype) for name, dtype in {**TYPES, "fp64": torch.double}.items()
    }
    for name, errors in results["errors"].items():
        print(
            f"{name}: largest relative errors "
            + ", ".join(f"{w} {e:.1e}" for w, e in errors.items())
        )
    right = all(
        error <= TOLERANCE[name] for name, e in results["errors"].items() for error in e.values()
    )
    print("correct in every type" if right else "WRONG: an error above is too large")
    if options.check:
        return 0 if right else 1
    results["correct"] = right

    results["ceilings"] = attempt("ceilings", ceilings) or {}
    print(", ".join(f"{name} {number:.4g}" for name, number in results["ceilings"].items()))
    results["cases"] = []
    print(HEADINGS)
    for shape, places, name in CASES:
        if time.monotonic() - started > options.minutes * 60:
            print(f"out of time before {shape}, {places}, {name}")
            break
        for case in measure(shape, places, name, options, results["ceilings"]):
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
    return 0 if right else 1


def attempt(what: str, work: Callable):
    """The work's result; or None and a line on why. What is optional must not stop the rest."""
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


# ---- Correct ----

TOLERANCE = {"fp64": 1e-12, "fp32": 1e-5, "fp16": 1e-3, "bf16": 8e-3}


def check(dtype: torch.dtype) -> dict[str, float]:
    """Errors relative to the largest number, against the definition in 64 bits, on the CPU.

    A level is one pixel, a third of the places lie outside, and none lies next to a pixel centre's
    row or column, where the slope jumps.
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
        coordinates = dtype if dtype == torch.float64 else torch.float32
        value = torch.randn(1, n_tokens, 2, channels, generator=generator, dtype=torch.float64)
        value, locations = value.to(dtype), ((pixels + 0.5) / sizes).to(coordinates)
        weights = torch.rand(points, generator=generator).to(coordinates)
        grad = torch.randn(1, n_queries, 2 * channels, generator=generator).to(dtype)

        def run(backend, move, value=value, locations=locations, weights=weights, grad=grad):
            inputs = [move(t.detach()).requires_grad_() for t in (value, locations, weights)]
            output = ms_deform_attn(inputs[0], levels, inputs[1], inputs[2], backend)
            return [output.detach(), *torch.autograd.grad(output, inputs, move(grad))]

        ours = run("cuda", lambda t: t.to(DEVICE))
        exact = run("naive", lambda t: t.double())
        for what, got, wanted in zip(errors, ours, exact, strict=True):
            error = (got.double().cpu() - wanted).abs().max() / wanted.abs().max()
            errors[what] = max(errors[what], float(error) if error == error else float("inf"))
    return errors


def sanitize(tool: str) -> str:
    """Run `--check` under compute-sanitizer: "clean", or the end of what it says."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        return "no compute-sanitizer on PATH"
    result = subprocess.run(
        [program, "--tool", tool, "--error-exitcode", "9", sys.executable, __file__, "--check"],
        capture_output=True,
        text=True,
        timeout=240,
        # Every tensor in memory of its own, so that a step beyond it is seen.
        env={**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
    )
    return "clean" if result.returncode == 0 else (result.stdout + result.stderr)[-1500:]


# ---- Ceilings: what the memory can do ----

# A group of 8 lanes adds to, or reads, rows of 32 floats in an order that jumps about.
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
    """Copy in TB/s (read and written), reads from the L1 cache in TB/s, atomic adds in G/s."""
    from cuda.core import ObjectCode, Program, ProgramOptions

    source = torch.empty(2**28, device=DEVICE)
    target = torch.empty_like(source)
    copy = median_ms(lambda: target.copy_(source), 10)
    found = {"copy_TB_s": 2 * source.nbytes / copy / 1e9}
    program = Program(CEILINGS, "c++", ProgramOptions(arch=cuda.architecture(0), std="c++17"))
    code = ObjectCode.from_cubin(program.compile("cubin").code)
    blocks, threads, rounds = 4096, 256, 64

    def run(name: str, count: int) -> float:
        kernel = code.get_kernel(name)
        numbers = (
            ctypes.c_void_p(target.data_ptr()), ctypes.c_uint(count), ctypes.c_int(rounds),
            ctypes.c_void_p(source.data_ptr()),
        )  # fmt: skip
        parameters = (ctypes.c_void_p * 4)(*(ctypes.addressof(number) for number in numbers))

        def launch():
            (status,) = cuda.driver().cuLaunchKernel(
                int(kernel.handle), blocks, 1, 1, threads, 1, 1, 0,
                torch.cuda.current_stream().cuda_stream, ctypes.addressof(parameters), 0,
            )  # fmt: skip
            if status != 0:
                raise RuntimeError(f"{status!r}")

        return median_ms(launch, 10)

    numbers = blocks * threads * rounds * 4
    found["gather_TB_s"] = numbers * 4 / run("reads", 128) / 1e9  # 16 KiB: stays in L1
    target.zero_()
    found["adds_G_s"] = numbers / run("adds", 2 * 8 * 19947) / 1e6  # the encoder's gradient
    return found


# ---- Fast ----


def implementations(places: str, name: str, with_compile: bool) -> dict[str, Callable]:
    """Name -> function of (value, levels, locations, weights), all of which take turns."""
    found = {
        "cuda": functools.partial(ms_deform_attn, backend="cuda"),
        "grid_sample": functools.partial(ms_deform_attn, backend="grid_sample"),
    }
    if with_compile and places == "near" and name in ("fp32", "bf16"):  # each takes a minute
        found["compiled"] = compiled()
    return {**found, **peers()}


@functools.cache
def compiled() -> Callable:
    """grid_sample through torch.compile."""
    torch._dynamo.config.cache_size_limit = 64  # one for each shape and type, with and without grad
    return torch.compile(functools.partial(ms_deform_attn, backend="grid_sample"), dynamic=False)


@functools.cache
def peers() -> dict[str, Callable]:
    """Other implementations, where they can be imported. Each takes what `ms_deform_attn` takes."""
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


def measure(shape: str, places: str, name: str, options, limits: dict) -> list[dict]:
    """Medians of every implementation and direction on one input; they take turns."""
    value, levels, locations, weights = bench.make_inputs(
        options.images, bench.QUERIES[shape], places
    )
    value = value.to(DEVICE, TYPES[name])
    locations, weights = locations.to(DEVICE), weights.to(DEVICE)
    works = {}
    for implementation, function in implementations(places, name, not options.no_compile).items():
        made = attempt(
            f"{implementation}, {shape}, {name}",
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
    floors = floors_ms(value, locations, limits)
    return [
        {
            "shape": shape,
            "places": places,
            "type": name,
            "implementation": key[0],
            "direction": key[1],
            "median_us": round(median * 1000, 2),
            "min_us": round(min(times[key]) * 1000, 2),
            "max_us": round(max(times[key]) * 1000, 2),
            "times_grid_sample": round(medians.get(("grid_sample", key[1]), 0) / median, 2),
            "percent_of_ceiling": {
                what: round(100 * floor / median) for what, floor in floors[key[1]].items()
            },
        }
        for key, median in medians.items()
    ]


def works_of(function: Callable, value, levels, locations, weights) -> dict[str, Callable]:
    """Direction -> that direction REPEATS times."""
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
        incoming = torch.ones_like(output)
    torch.cuda.synchronize()

    def backward():
        return torch.autograd.grad(output, leaves, incoming, retain_graph=True)

    return {
        name: recorded(work, stream)
        for name, work in (("forward", forward), ("backward", backward), ("both", both))
    }


def recorded(work: Callable, stream: torch.cuda.Stream) -> Callable:
    """The work REPEATS times, as a graph to be replayed; call by call if it cannot be recorded."""
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
        print(f"no graph, called one by one: {str(error).splitlines()[0]}")
        return lambda: [work() for _ in range(REPEATS)]
    return graph.replay


def median_ms(work: Callable, repeats: int, warm_up: int = 2) -> float:
    """Median milliseconds between two events around one run of the work."""
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


def floors_ms(value, locations, limits: dict) -> dict[str, dict[str, float]]:
    """How long each direction would take if one ceiling were all that mattered.

    copy: every input read once and every output written once. gather: four rows for each point out
    of the L1 cache. adds: four rows for each point added to the gradient.
    """
    _, _, n_heads, channels = value.shape
    n_images, n_queries = locations.shape[:2]
    output = n_images * n_queries * n_heads * channels * value.element_size()
    small = locations.nbytes * 3 // 2  # and weights
    corners = locations.numel() // 2 * 4 * channels
    read = value.nbytes + small + output
    seconds = {
        "forward": {"copy_TB_s": read, "gather_TB_s": corners * value.element_size()},
        # the gradient of value is zeroed, added to, and rounded if it has 16 bits
        "backward": {"copy_TB_s": read + small + 2 * value.numel() * 4, "adds_G_s": corners},
    }
    unit = {"copy_TB_s": 1e9, "gather_TB_s": 1e9, "adds_G_s": 1e6}  # per millisecond
    floors = {
        direction: {n: amount / unit[n] / limits[n] for n, amount in all_.items() if n in limits}
        for direction, all_ in seconds.items()
    }
    floors["both"] = {}
    return floors


HEADINGS = (
    f"{'shape':8} {'places':9} {'type':5} {'implementation':14} {'direction':9} "
    f"{'median us':>10} {'min':>9} {'max':>9} {'x grid_sample':>13}  % of ceiling"
)


def row(case: dict) -> str:
    ceiling = ", ".join(f"{n.split('_')[0]} {p}" for n, p in case["percent_of_ceiling"].items())
    return (
        f"{case['shape']:8} {case['places']:9} {case['type']:5} {case['implementation']:14} "
        f"{case['direction']:9} {case['median_us']:10.1f} {case['min_us']:9.1f} "
        f"{case['max_us']:9.1f} {case['times_grid_sample']:13.2f}  {ceiling}"
    )


if __name__ == "__main__":
    sys.exit(main())
