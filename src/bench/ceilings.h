#pragma once

/// What the hardware can do, against which everything else is held.

#include "bench/measurement.h"

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <functional>
#include <string>
#include <vector>

namespace pimoe {

class Bench;

/// How much the suites move and multiply where the configuration does not say it.
struct BenchSizes {
  int64_t gemm = 1024;                      ///< n of an n x n x n product, at most
  double gemm_seconds = 1.0;                ///< that one takes, about: a CPU that takes longer has a smaller n
  int64_t copy_bytes = int64_t{128} << 20;  ///< beyond every cache
  std::vector<int64_t> link_bytes = {int64_t{1} << 20, int64_t{16} << 20, int64_t{64} << 20};
  int64_t disk_bytes = int64_t{128} << 20;   ///< of each rank
  int64_t corpus_tokens = int64_t{1} << 22;  ///< of a random corpus, where none is configured
  int64_t data_steps = 64;                   ///< steps of data in a repetition

  static BenchSizes of(c10::Device device);
};

/// One of them; all ranks are at work at the same time, and the amount is a rank's.
struct Ceiling {
  std::string name;
  bool is_flops = false;  ///< the amount is FLOP, else bytes
  double amount = 0.0;    ///< of a repetition
  Clock clock = Clock::kDevice;
  bool is_light = false;          ///< few repetitions
  std::string group = {};         ///< of ranks; "": each for itself
  std::function<Work()> prepare;  ///< takes the memory that it needs; collective
  /// Where only a trial can say how much a repetition may be: sets `amount` and `prepare`, once, before the first measurement. Collective.
  std::function<void(Ceiling& self)> settle = {};
};

constexpr const char* kCopyName = "copy";
std::string gemm_name(at::ScalarType dtype);

/// Those of this machine and layout, the same on every rank: products in the compute dtype and float32; copies on the device, and to and from a GPU;
/// exchange and sums between ranks; the run folder's disk. Then the configured model's largest parts by themselves, which bound what a step can
/// reach, and which `pimoe check --ceilings` foretells with.
std::vector<Ceiling> ceilings_of(Bench& bench);

}  // namespace pimoe
