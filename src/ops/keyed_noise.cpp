#include "ops/keyed_noise.h"

#include "base/random.h"
#include "ops/launch.h"

#include <ATen/ops/empty.h>

namespace pimoe {
namespace {

template <class A>
void fill(const KeyedNoiseArguments& a, int64_t begin, int64_t end) {
  A* out = static_cast<A*>(a.output);
  for (int64_t i = begin; i < end; ++i) {
    out[i] = static_cast<A>(1.0 + a.amplitude * (2.0 * random_uniform(a.key, a.first_index + static_cast<uint64_t>(i)) - 1.0));
  }
}

}  // namespace

at::Tensor keyed_noise(uint64_t key, uint64_t first_index, double amplitude, at::IntArrayRef shape, const at::TensorOptions& options) {
  at::Tensor noise = at::empty(shape, options);
  check_shape(noise.scalar_type() == at::kFloat || noise.scalar_type() == at::kDouble, "keyed_noise makes float32 or float64, not ",
              describe(noise));
  const KeyedNoiseArguments arguments{dtype_of(noise), key, first_index, amplitude, noise.mutable_data_ptr()};
  launch(
      noise, noise.numel(), noise.element_size() * 16,  // a draw costs as much as moving some bytes
      [&](int64_t begin, int64_t end) {
        arguments.dtype == Dtype::kFloat64 ? fill<double>(arguments, begin, end) : fill<float>(arguments, begin, end);
      },
      [&] { cuda::keyed_noise(arguments, noise.numel()); });
  return noise;
}

}  // namespace pimoe
