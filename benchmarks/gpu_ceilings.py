"""What the GPU's memory can do, and how long the attention would take if only that mattered."""

import ctypes
import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from ddetr_edu.attention.kernels import cuda

# In `adds`, `reads` and `reads_l2`, a group of 8 lanes adds to, or reads, rows of 32 floats; `adds`
# and `reads_l2` in a scattered order. In `reads16`, 4 lanes read a row of 32 16-bit numbers, half
# of a line of 128 bytes. A quarter of a warp reads two such rows, of two lines, at once: the same
# half of both, or the lower half of one and the upper half of the other.
CEILINGS = r"""
__device__ unsigned scatter(unsigned x) {
  x ^= x >> 16; x *= 0x7feb352dU; x ^= x >> 15; x *= 0x846ca68bU;
  return x ^ x >> 16;
}
__device__ void add(float4& sum, float4 row) {
  sum.x += row.x; sum.y += row.y; sum.z += row.z; sum.w += row.w;
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
  for (int i = 0; i < rounds; ++i)
    add(sum, __ldg(rows + (thread / 8 * 7 + i * 5 & count - 1) * 8 + thread % 8));
  if (sum.x == 12345.f) sink[thread] = sum;
}
extern "C" __global__ void reads_l2(const float4* rows, unsigned count, int rounds, float4* sink) {
  const unsigned thread = blockIdx.x * blockDim.x + threadIdx.x;
  float4 sum = {};
#pragma unroll 8
  for (int i = 0; i < rounds; ++i)
    add(sum, __ldg(rows + __umulhi(scatter(thread / 8 * rounds + i), count) * 8 + thread % 8));
  if (sum.x == 12345.f) sink[thread] = sum;
}
template <bool alternating>
__device__ void reads16(const float4* rows, unsigned count, int rounds, float4* sink) {
  const unsigned thread = blockIdx.x * blockDim.x + threadIdx.x, group = thread / 4;
  float4 sum = {};
#pragma unroll 8
  for (int i = 0; i < rounds; ++i) {
    const unsigned half = (alternating ? group + i : i) % 2;
    add(sum, __ldg(rows + (group * 7 + i * 5 & count - 1) * 8 + half * 4 + thread % 4));
  }
  if (sum.x == 12345.f) sink[thread] = sum;
}
extern "C" __global__ void reads16_same(const float4* r, unsigned n, int rounds, float4* sink) {
  reads16<false>(r, n, rounds, sink);
}
extern "C" __global__ void reads16_both(const float4* r, unsigned n, int rounds, float4* sink) {
  reads16<true>(r, n, rounds, sink);
}
"""


def ceilings(device: str) -> dict[str, float]:
    """The throughput of copies, of reads from the L1 and L2 caches, and of atomic adds.

    Of ten times each, the best counts. A kernel here runs for half a millisecond or more, because
    the next launch must be queued before it ends. Otherwise the GPU waits between the two events
    of a measurement, until Python has launched what lies between them: kernels of 40 microseconds
    seemed to take 55.

    Args:
        device: The GPU.

    Returns:
        Name -> throughput, in the unit of the name. copy_TB_s counts bytes read and written.
        gather_TB_s reads rows of 128 bytes from L1, gather16_same_half_TB_s and
        gather16_both_halves_TB_s rows of 64 bytes, gather_L2_TB_s rows of 128 bytes from L2.
    """
    from cuda.core import ObjectCode, Program, ProgramOptions

    source = torch.zeros(2**28, device=device)
    target = torch.empty_like(source)
    copy = min(times_ms(lambda: target.copy_(source), 10))
    throughput = {"copy_TB_s": 2 * source.nbytes / copy / 1e9}
    program = Program(CEILINGS, "c++", ProgramOptions(arch=cuda.architecture(0), std="c++17"))
    code = ObjectCode.from_cubin(program.compile("cubin").code)
    blocks, threads, rounds = 2**16, 256, 64

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

        return min(times_ms(launch, 10))

    numbers = blocks * threads * rounds * 4
    lines = 2**7  # 16 KiB: stays in L1
    throughput["gather_TB_s"] = numbers * 4 / run("reads", lines) / 1e9
    throughput["gather16_same_half_TB_s"] = numbers * 4 / run("reads16_same", lines) / 1e9
    throughput["gather16_both_halves_TB_s"] = numbers * 4 / run("reads16_both", lines) / 1e9
    # 20 MB, the encoder's value in 16 bits: stays in L2, and hardly any of it in L1.
    throughput["gather_L2_TB_s"] = numbers * 4 / run("reads_l2", 8 * 19947) / 1e9
    target.zero_()
    throughput["adds_G_s"] = numbers / run("adds", 2 * 8 * 19947) / 1e6  # the encoder's gradient
    return throughput


def median_ms(work: Callable, repeats: int, warm_up: int = 2) -> float:
    """The median milliseconds of the work, between two CUDA events."""
    return statistics.median(times_ms(work, repeats, warm_up))


def times_ms(work: Callable, repeats: int, warm_up: int = 2) -> list[float]:
    """The milliseconds of the work, each time it is done, between two CUDA events."""
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
    return [begin.elapsed_time(end) for begin, end in pairs]


def lower_bounds_ms(
    value: Tensor, locations: Tensor, ceilings: dict[str, float]
) -> dict[str, dict[str, float]]:
    """How long each direction would take if it were limited by one ceiling only.

    copy: every input is read once and every output written once. gather: four rows for each point
    are read from the L1 cache. adds: four rows for each point are added to the gradient in memory;
    a kernel that adds some of them up beforehand can take less time than that.

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
            "gather_TB_s": corners * value.element_size(),
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
