#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

struct ompi_communicator_t;  // MPI_Comm is a pointer to it
struct ompi_request_t;       // MPI_Request likewise

namespace pimoe {

/// One message's memory.
struct MessageSpan {
  char* data = nullptr;
  int64_t bytes = 0;
};

/// Bytes between all ranks of a group at once, cut into messages whose lengths MPI, which counts in ints, can hold.
class MpiMessages {
 public:
  /// @param communicator  must outlive this, and return its errors  @param group  its name
  /// @param message_bytes  no message is longer; the same on every rank
  MpiMessages(ompi_communicator_t* communicator, const std::string& group, int64_t message_bytes);

  int rank() const { return rank_; }
  int size() const { return size_; }
  int64_t message_bytes() const { return message_bytes_; }
  /// "expert group of 4"
  const std::string& name() const { return name_; }

  /// Sends sends[r] to every rank r and receives receives[r] from it, all at once. At least one message travels each way between any two
  /// ranks, an empty one if need be, so that counts that disagree are an error and not a hang.
  /// @throws CommError that begins with `collective`, once nothing is under way any more
  void exchange(const char* collective, const std::vector<MessageSpan>& sends, const std::vector<MessageSpan>& receives) const;

  /// Every rank's `bytes` bytes, in the order of ranks. `shard` may lie where it belongs in `gathered`.
  void gather(char* gathered, char* shard, int64_t bytes) const;

  /// @throws CommError unless `code` is MPI_SUCCESS
  void check(int code, const char* collective) const;

 private:
  std::string where(const char* collective) const;
  /// One by one, since Open MPI 4.1's MPI_Waitall never returns when one of several requests fails; and all of them before any failure is
  /// reported, since the buffers are the caller's.
  void wait_for(const char* collective, std::vector<ompi_request_t*>& requests, const std::vector<std::pair<int, int>>& expected) const;

  ompi_communicator_t* communicator_;
  int64_t message_bytes_;
  int rank_ = 0;
  int size_ = 1;
  std::string name_;
};

}  // namespace pimoe
