#pragma once

#include "parallel/communicator.h"

namespace pimoe {

/// A group that nobody has started: it knows its size, and everything else is a CommError.
class PlannedCommunicator final : public HostCommunicator {
 public:
  PlannedCommunicator(int rank, int size);

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  const std::string& name() const override { return name_; }

  std::unique_ptr<Communicator> split(int color, int key, const std::string& name) const override;
  void all_reduce(at::Tensor& tensor, ReduceOp op) const override;
  void broadcast(at::Tensor& tensor, int root) const override;
  void all_gather(at::Tensor& gathered, const at::Tensor& shard) const override;
  void reduce_scatter(at::Tensor& shard, const at::Tensor& full) const override;
  at::Tensor all_to_all(const at::Tensor& rows, const std::vector<int64_t>& send_rows,
                        const std::vector<int64_t>& recv_rows) const override;
  void barrier() const override;
  std::unique_ptr<HostCommunicator> split_host(int color, int key, const std::string& name) const override;
  std::vector<std::string> all_gather_text(const std::string& text) const override;
  std::string broadcast_text(const std::string& text, int root) const override;

 private:
  [[noreturn]] void refuse(const char* what) const;

  int rank_;
  int size_;
  std::string name_;
};

}  // namespace pimoe
