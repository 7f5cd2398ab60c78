#include "interop/transfer_progress.h"

#include "base/progress.h"
#include "base/text.h"

#include <algorithm>

namespace pimoe {
namespace {

constexpr double kSecondsBetweenLines = 2.0;

}  // namespace

double TransferProgress::seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

void TransferProgress::moved(int64_t bytes) {
  done_ += bytes;
  progress_tick();
  const auto now = Clock::now();
  if (std::chrono::duration<double>(now - last_line_).count() < kSecondsBetweenLines) return;
  last_line_ = now;
  const double rate = static_cast<double>(done_) / seconds();
  const auto left = static_cast<double>(std::max<int64_t>(0, total_ - done_));
  log_.info(concat("  ", human_bytes(static_cast<double>(done_)), " of ", human_bytes(static_cast<double>(total_)), "  ", human_bytes(rate),
                   "/s  left ", human_duration(left / std::max(rate, 1.0))));
}

}  // namespace pimoe
