#include "ops/trace_range.h"

#if PIMOE_CUDA
#include <torch/csrc/profiler/stubs/base.h>
#endif

namespace pimoe {

TraceRange::TraceRange(const char* name) : record_(at::RecordScope::USER_SCOPE) {
  if (record_.isActive()) record_.before(name);
#if PIMOE_CUDA
  torch::profiler::impl::cudaStubs()->rangePush(name);
#endif
}

TraceRange::~TraceRange() {
#if PIMOE_CUDA
  torch::profiler::impl::cudaStubs()->rangePop();
#endif
}

}  // namespace pimoe
