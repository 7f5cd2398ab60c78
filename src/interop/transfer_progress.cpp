#include "interop/transfer_progress.h"

namespace pimoe {

double TransferProgress::seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

void TransferProgress::moved(int64_t bytes) {
  done_ += bytes;
  progress_.at(done_, total_);
}

}  // namespace pimoe
