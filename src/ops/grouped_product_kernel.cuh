#pragma once

/// The products of grouped_product_cuda.cu: one kernel for sm_90a, by what its operands are and what becomes of its results.
///
/// A block of three warpgroups stays on its multiprocessor and takes one tile of results after the other, 128 rows by 256 columns. The first
/// warpgroup brings 64 steps of the reduction at a time into a ring of stages; each of the other two multiplies them into its 64 rows
/// (registers), and then sends those away while the ring fills for the next tile. The two do not wait for each other, so that one
/// multiplies while the other sends.
///
/// Blocks work in clusters of two, on tiles one above the other. Both need the same right operand: each brings half of it, for both at once, which
/// takes a third off what comes from the L2 cache. Below a group's last tile a block may have no tile, and does this alone.
///
///     rows      C[r] = A[r] W_g^T   rows r of group g; the groups' ends cut the tiles' rows    forward and gradients of rows
///     columns   C_g = A_g^T B_g     summed over the rows of group g                            gradients of weights
///
/// Rows that are gathered are copied 16 bytes at a time by the loading warpgroup's threads; all else comes by TMA.

#include "ops/grouped_product_loader.cuh"
#include "ops/grouped_product_multiplier.cuh"

namespace pimoe::cuda::hopper {

template <class K>
__global__ void __launch_bounds__(kProductThreads, 1) grouped_product(const __grid_constant__ ProductMaps maps, const ProductArguments a) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ uint8_t shared[];
  const Layout<K> layout(shared);
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < K::stages; ++stage) {
      barrier_init(layout.full(stage), 1 + (K::gathers ? kLoaders : 0));
      barrier_init(layout.empty(stage), kClusterBlocks * kSendingWarps);
    }
    for (int warp = 0; warp < kSendingWarps; ++warp) {
      for (int buffer = 0; buffer < 2; ++buffer) barrier_init(layout.gate_up(warp, buffer), 1);
    }
    barriers_are_ready();
  }
  cluster_wait();
  // Together all of a multiprocessor's registers: those who multiply hold 128 sums each.
  if (threadIdx.x < kLoaders) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 72;");
    Loader<K>(maps, a, layout).run();
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 216;");
    Multiplier<K>(maps, a, layout).run();
  }
  cluster_wait();  // the other block may still write here
#else
  __trap();  // built for another architecture than sm_90a: an error, not results that nobody wrote
#endif
}

}  // namespace pimoe::cuda::hopper
