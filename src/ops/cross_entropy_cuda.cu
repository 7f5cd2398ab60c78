#include "ops/cuda_math.cuh"

namespace pimoe::cuda {
namespace {

constexpr int kRowThreads = 512;

/// A largest value and the sum of e^(value - largest), of any part of a row.
template <class A>
struct Softmax {
  A largest;
  A sum;
};

/// Equal largest values are told apart from their difference, which is NaN for infinities: a part without finite values adds nothing.
template <class A>
__device__ Softmax<A> merge(const Softmax<A>& left, const Softmax<A>& right) {
  const A largest = right.largest > left.largest ? right.largest : left.largest;
  const A left_scale = left.largest == largest ? A(1) : exponential(left.largest - largest);
  const A right_scale = right.largest == largest ? A(1) : exponential(right.largest - largest);
  return {largest, left.sum * left_scale + right.sum * right_scale};
}

template <class A>
__device__ Softmax<A> block_softmax(Softmax<A> part) {
  __shared__ Softmax<A> parts[kRowThreads / 32];
  __shared__ Softmax<A> whole;
  for (int offset = 16; offset > 0; offset /= 2) {
    // The lower lane stands left in both, so that both come to the same bits.
    const Softmax<A> other{__shfl_xor_sync(0xFFFFFFFFu, part.largest, offset), __shfl_xor_sync(0xFFFFFFFFu, part.sum, offset)};
    part = (threadIdx.x & static_cast<unsigned>(offset)) == 0 ? merge(part, other) : merge(other, part);
  }
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = part;
  __syncthreads();
  if (threadIdx.x == 0) {
    whole = parts[0];
    for (int warp = 1; warp < kRowThreads / 32; ++warp) whole = merge(whole, parts[warp]);
  }
  __syncthreads();
  return whole;
}

/// One block for each position. NaN and +infinity in a row make its loss and gradient NaN.
template <class T, class A = Arithmetic<T>>
__global__ void loss_row(const A* logits, const int64_t* targets, A* losses, T* grad_logits, int64_t vocabulary) {
  const int64_t row = blockIdx.x;
  const int64_t target = targets[row];
  const A* x = logits + row * vocabulary;
  T* grad = grad_logits == nullptr ? nullptr : grad_logits + row * vocabulary;
  if (target < 0) {
    if (threadIdx.x == 0) losses[row] = 0;
    if (grad == nullptr) return;
    for (int64_t i = threadIdx.x; i < vocabulary; i += kRowThreads) store(&grad[i], A(0));
    return;
  }
  Softmax<A> part{-INFINITY, 0};
  for (int64_t i = threadIdx.x; i < vocabulary; i += kRowThreads) {
    const A value = x[i];
    if (value > part.largest) {
      part.sum = part.sum * exponential(part.largest - value) + exponential(value - value);
      part.largest = value;
    } else if (value != -INFINITY) {
      part.sum += exponential(value - part.largest);
    }
  }
  const Softmax<A> softmax = block_softmax(part);
  // A target past the vocabulary cannot be reported from here without waiting for the device: it becomes NaN instead of a stray read.
  if (threadIdx.x == 0) losses[row] = target < vocabulary ? log(softmax.sum) + (softmax.largest - x[target]) : A(NAN);
  if (grad == nullptr) return;
  const A scale = A(1) / softmax.sum;
  // grad may be logits: the loss above must be read before it is overwritten.
  __syncthreads();
  for (int64_t i = threadIdx.x; i < vocabulary; i += kRowThreads) {
    const A probability = exponential(x[i] - softmax.largest) * scale;
    store(&grad[i], i == target ? probability - A(1) : probability);
  }
}

struct Loss {
  template <class T>
  static void run(const CrossEntropyArguments& a, int64_t tokens) {
    using A = Arithmetic<T>;
    loss_row<T><<<static_cast<unsigned>(tokens), kRowThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
        static_cast<const A*>(a.logits), a.targets, static_cast<A*>(a.losses), static_cast<T*>(a.grad_logits), a.vocabulary);
    check_launch("cross_entropy");
  }
};

}  // namespace

void cross_entropy(const CrossEntropyArguments& arguments, int64_t tokens) { by_dtype<Loss>(arguments, tokens); }

}  // namespace pimoe::cuda
