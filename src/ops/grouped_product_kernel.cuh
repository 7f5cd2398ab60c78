#pragma once

/// The products of grouped_product_cuda.cu: one kernel for sm_90a, by what its operands are and what becomes of its results.
///
/// A block of three warpgroups stays on its multiprocessor and takes one tile of results after the other, 128 rows by 256 columns. The first
/// warpgroup brings 64 steps of the reduction at a time into a ring of stages; each of the other two multiplies them into its 64 rows
/// (registers), and then sends those away while the ring fills for the next tile.
///
/// SwiGLU and its backward take longer than the ring can bridge. There the rows are handed over in bfloat16, through shared memory, to three warps of
/// the first warpgroup, which finish them during the next tile; one warp is enough to load. Shared memory beside four stages has room for half a
/// tile: the right half waits in the registers of those who multiply, until they are half through the next one.
///
/// Blocks work in clusters of two, on tiles one above the other. Both need the same right operand: each brings half of it, for both at once, which
/// takes a third off what comes from the L2 cache. Below a group's last tile a block may have no tile, and does this alone.
///
///     rows      C[r] = A[r] W_g^T   rows r of group g; the groups' ends cut the tiles' rows    forward and gradients of rows
///     columns   C_g = A_g^T B_g     summed over the rows of group g                            gradients of weights
///
/// Rows that are gathered are copied 16 bytes at a time by the loading threads; all else comes by TMA.

#include "ops/grouped_product_finisher.cuh"
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
      barrier_init(layout.full(stage), 1 + (K::gathers ? K::loaders : 0));
      barrier_init(layout.empty(stage), kClusterBlocks * kSendingWarps);
    }
    for (int warp = 0; warp < kSendingWarps; ++warp) {
      barrier_init(layout.handed(warp), 1);
      barrier_init(layout.taken(warp), 1);
    }
    barriers_are_ready();
  }
  cluster_wait();
  // Together all of a multiprocessor's registers: those who multiply hold 128 sums each.
  if (threadIdx.x < 128) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(K::finishes ? 152 : 72));
    if (threadIdx.x < K::loaders) {
      Loader<K>(maps, a, layout).run();
    } else if constexpr (K::finishes) {
      Finisher<K>(a, layout).run();
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(K::finishes ? 176 : 216));
    Multiplier<K>(maps, a, layout).run();
  }
  cluster_wait();  // the other block may still write here
#else
  __trap();  // built for another architecture than sm_90a: an error, not results that nobody wrote
#endif
}

}  // namespace pimoe::cuda::hopper
