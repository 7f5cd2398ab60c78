#include "compress/checkpoint_parts.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "checkpoint/local_save.h"
#include "parallel/agreement.h"
#include "train/load_proof.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <exception>
#include <utility>

namespace pimoe {
namespace {

constexpr int64_t kPartBytes = int64_t{1} << 27;  ///< of a file

}  // namespace

void CheckpointParts::add(const std::string& kind, const std::string& name, const std::vector<int64_t>& shape, int64_t begin,
                          const at::Tensor& values) {
  const at::Tensor flat = values.contiguous().view({-1});
  pieces_.push_back({kind, {name, Box::whole(shape), begin, begin + flat.numel()}, flat});
  bytes_ += static_cast<int64_t>(flat.nbytes());
}

void CheckpointParts::add_copy(CheckpointReader& reader, const std::string& tensor, const std::vector<int64_t>& shape) {
  const size_t slash = tensor.find('/');
  const int64_t all = Box::whole(shape).global_numel();
  for (int64_t begin = 0; begin < all || begin == 0; begin += kElementsTogether) {
    add(tensor.substr(0, slash), tensor.substr(slash + 1), shape, begin,
        reader.read(tensor, begin, std::min(all, begin + kElementsTogether)));
    may_write();
  }
}

void CheckpointParts::add_zeros(const std::string& kind, const std::string& name, const std::vector<int64_t>& shape, at::ScalarType dtype) {
  const int64_t all = Box::whole(shape).global_numel();
  for (int64_t begin = 0; begin < all; begin += kElementsTogether) {
    add(kind, name, shape, begin, at::zeros({std::min(all - begin, kElementsTogether)}, dtype));
    may_write();
  }
}

void CheckpointParts::may_write() {
  if (bytes_ >= kPartBytes) write();
}

void CheckpointParts::write() {
  if (pieces_.empty()) return;
  writer_.add(shard_name(0, 1, part_++), pieces_);
  pieces_.clear();
  bytes_ = 0;
}

std::unique_ptr<Transformer> declared_model(const ModelConfig& model, const ProcessMesh& mesh) {
  return std::make_unique<Transformer>(model, at::kFloat, mesh);
}

void write_from_checkpoint(const std::filesystem::path& to, Manifest manifest, const std::function<void(CheckpointParts&)>& write_parts) {
  manifest.ranks = 1;
  manifest.expert_parallel = 1;
  std::exception_ptr of_checkpoint;  // what is wrong with the weights is no error of saving
  try {
    write_checkpoint(to, std::move(manifest), [&](ShardWriter& writer) {
      CheckpointParts parts(writer);
      try {
        write_parts(parts);
      } catch (const CheckpointError&) {  // the contract
        of_checkpoint = std::current_exception();
        throw;
      }
      parts.write();
    });
  } catch (const SaveError&) {  // likewise
    if (of_checkpoint) std::rethrow_exception(of_checkpoint);
    throw;
  }
}

void add_proof(const std::filesystem::path& checkpoint, const LoadedModel& loaded) {
  Snapshot proof;
  add_load_proof(proof, *loaded.model, *loaded.mesh);
  do_together(loaded.mesh->control(), [&] {
    if (loaded.mesh->rank() != 0) return;
    Manifest manifest = read_manifest(checkpoint);
    for (const auto& [name, value] : proof.numbers) manifest.numbers[name] = value;
    for (const auto& [name, value] : proof.counters) manifest.counters[name] = value;
    const std::string text = to_json(manifest);
    write_durably(checkpoint / "manifest.json", text.data(), text.size());
  });
}

}  // namespace pimoe
