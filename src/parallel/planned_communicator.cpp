#include "parallel/planned_communicator.h"

#include "base/errors.h"
#include "base/text.h"

namespace pimoe {

PlannedCommunicator::PlannedCommunicator(int rank, int size) : rank_(rank), size_(size), name_(concat("planned group of ", size)) {}

void PlannedCommunicator::refuse(const char* what) const { throw CommError(concat(what, " on the ", name_, ": its ranks are not there")); }

std::unique_ptr<Communicator> PlannedCommunicator::split(int, int, const std::string&) const { refuse("split"); }
void PlannedCommunicator::all_reduce(at::Tensor&, ReduceOp) const { refuse("all_reduce"); }
void PlannedCommunicator::broadcast(at::Tensor&, int) const { refuse("broadcast"); }
void PlannedCommunicator::all_gather(at::Tensor&, const at::Tensor&) const { refuse("all_gather"); }
void PlannedCommunicator::reduce_scatter(at::Tensor&, const at::Tensor&) const { refuse("reduce_scatter"); }
at::Tensor PlannedCommunicator::all_to_all(const at::Tensor&, const std::vector<int64_t>&, const std::vector<int64_t>&) const {
  refuse("all_to_all");
}
void PlannedCommunicator::barrier() const { refuse("barrier"); }
std::unique_ptr<HostCommunicator> PlannedCommunicator::split_host(int, int, const std::string&) const { refuse("split_host"); }
std::vector<std::string> PlannedCommunicator::all_gather_text(const std::string&) const { refuse("all_gather_text"); }
std::string PlannedCommunicator::broadcast_text(const std::string&, int) const { refuse("broadcast_text"); }

}  // namespace pimoe
