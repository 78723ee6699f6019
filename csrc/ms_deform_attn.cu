// Multi-scale deformable attention on an NVIDIA GPU, forward and backward.
//
// NVRTC compiles this file when it is first needed, for one direction, one type of value and one
// width at a time. It includes only our own headers. host_cuda.h runs the same source on a CPU.
//
// cuda_point.h says which thread works on what; cuda_forward.h and cuda_backward.h are the kernels.
#include "cuda_backward.h"
#include "cuda_forward.h"

// The one kernel of a build. DDETR_DIRECTION is forward or backward, DDETR_VALUE the type of value,
// output and grad_output. The compiler may use as many registers as leave room for DDETR_BLOCKS
// blocks on a multiprocessor: more registers allow more reads in flight, more blocks hide more of
// their latency.
#ifdef DDETR_DIRECTION
extern "C" __global__ void __launch_bounds__(DDETR_QUERIES* DDETR_HEADS* DDETR_LANES, DDETR_BLOCKS)
    ms_deform_attn(const __grid_constant__ ddetr::Arguments a) {
  using namespace ddetr;
  DDETR_DIRECTION<DDETR_VALUE, DDETR_VECTOR, DDETR_LANES, DDETR_QUERIES, DDETR_HEADS,
                  DDETR_ENTRIES>(a);
}
#endif
