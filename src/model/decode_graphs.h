#pragma once

#include "model/transformer.h"
#include "parallel/device.h"

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace pimoe {

/// Passes in which each of some sequences gets one token more, as CUDA graphs: a pass of few tokens is bound by the host, which starts its kernels one by
/// one. There is a graph for each number of sequences, and for lengths of up to 512 positions, 1024, 2048 and so on; it is recorded when such a pass comes
/// for the third time. They compute what Transformer::extend does, with the same kernels on the same numbers.
///
/// On one rank with a GPU alone, where Transformer::recording_obstacle has no objection. Their memory is that of the largest one.
class DecodeGraphs {
 public:
  /// Enqueues what is to be done with the pass' routing; recorded with it, and so for tensors that stay where they are.
  using Observer = std::function<void(const std::vector<RoutingRecord>& routing)>;

  /// `model`, `cache` and `mesh` must outlive it. @param most  sequences of a pass that is recorded
  DecodeGraphs(const Transformer& model, const KeyValueCache& cache, const ProcessMesh& mesh, int64_t most, Observer observer = {});
  ~DecodeGraphs();
  DecodeGraphs(const DecodeGraphs&) = delete;
  DecodeGraphs& operator=(const DecodeGraphs&) = delete;

  /// @param tokens, parts  as Transformer::extend's; tokens on the host
  /// @returns its scores, overwritten by the next call; nothing: this pass is not recorded, and nothing has been done
  std::optional<at::Tensor> replay(const std::vector<int64_t>& tokens, const std::vector<CachedPart>& parts);

  /// Why nothing is recorded, "" while something may be.
  const std::string& obstacle() const { return obstacle_; }
  int64_t recorded() const;

 private:
  struct Recorded;
  using Shape = std::pair<int64_t, int64_t>;  ///< sequences, positions of the longest at most

  void record(const Shape& shape, Recorded& pass);

  const Transformer& model_;
  const KeyValueCache& cache_;
  const ProcessMesh& mesh_;
  int64_t most_;
  Observer observer_;
  std::string obstacle_;
  SideStream stream_;  ///< recording needs another stream than the default one
  at::Tensor scores_;  ///< [most, V], where graphs leave theirs
  std::map<Shape, std::unique_ptr<Recorded>> passes_;
  const Recorded* first_ = nullptr;  ///< whose memory the others use
};

}  // namespace pimoe
