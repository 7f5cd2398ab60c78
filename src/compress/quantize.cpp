#include "compress/quantize.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"
#include "base/work_progress.h"
#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/local_save.h"
#include "checkpoint/training_state.h"
#include "moe/matrix.h"
#include "parallel/agreement.h"
#include "train/load_proof.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <exception>

namespace pimoe {
namespace {

constexpr int64_t kPartBytes = int64_t{1} << 27;      ///< of a file
constexpr int64_t kChunkElements = int64_t{1} << 24;  ///< that are looked at together

/// Names, shapes and dtypes of a model; no memory.
std::unique_ptr<Transformer> declared(const ModelConfig& model, const ProcessMesh& mesh) {
  return std::make_unique<Transformer>(model, at::kFloat, mesh);
}

/// Puts pieces into files one after the other.
class Parts {
 public:
  explicit Parts(ShardWriter& writer) : writer_(writer) {}

  void add(const char* kind, const std::string& name, const std::vector<int64_t>& shape, int64_t begin, const at::Tensor& values) {
    const at::Tensor flat = values.contiguous().view({-1});
    pieces_.push_back({kind, {name, Box::whole(shape), begin, begin + flat.numel()}, flat});
    bytes_ += static_cast<int64_t>(flat.nbytes());
  }
  /// After what belongs together.
  void may_write() {
    if (bytes_ >= kPartBytes) write();
  }
  void write() {
    if (pieces_.empty()) return;
    writer_.add(shard_name(0, 1, part_++), pieces_);
    pieces_.clear();
    bytes_ = 0;
  }

 private:
  ShardWriter& writer_;
  std::vector<StatePiece> pieces_;
  int64_t bytes_ = 0;
  size_t part_ = 0;
};

std::vector<int64_t> without_last(std::vector<int64_t> shape) {
  shape.pop_back();
  return shape;
}

/// Channel by channel: the numbers of a chunk of channels, and beside them its scales.
void add_quantized(CheckpointReader& reader, const std::string& tensor, const Parameter& matrix, Parts& parts) {
  const std::vector<int64_t>& shape = matrix.box.global;
  const int64_t terms = shape.back();
  const int64_t channels = matrix.box.global_numel() / terms;
  const int64_t together = std::max<int64_t>(1, kChunkElements / terms);
  for (int64_t first = 0; first < channels; first += together) {
    const int64_t count = std::min(together, channels - first);
    const at::Tensor values = reader.read(tensor, first * terms, (first + count) * terms).to(at::kFloat).view({count, terms});
    const Int8Numbers numbers = int8_numbers(values);
    if (!numbers.scales.isfinite().all().item<bool>()) {
      throw CheckpointError(concat(tensor, " has numbers that are not finite: there is no int8 of them"));
    }
    parts.add(state_kind::kMaster, matrix.name, shape, first * terms, numbers.numbers);
    parts.add(state_kind::kMaster, matrix.name + kScaleSuffix, without_last(shape), first, numbers.scales);
    parts.may_write();
  }
}

void add_copy(CheckpointReader& reader, const std::string& tensor, const std::vector<int64_t>& shape, Parts& parts) {
  const size_t slash = tensor.find('/');
  const std::string kind = tensor.substr(0, slash);
  const int64_t all = Box::whole(shape).global_numel();
  for (int64_t begin = 0; begin < all || begin == 0; begin += kChunkElements) {
    parts.add(kind == state_kind::kState ? state_kind::kState : state_kind::kMaster, tensor.substr(slash + 1), shape, begin,
              reader.read(tensor, begin, std::min(all, begin + kChunkElements)));
    parts.may_write();
  }
}

}  // namespace

std::set<std::string> quantized_matrices(const ModelConfig& model, const ProcessMesh& mesh) {
  std::set<std::string> names;
  const std::unique_ptr<Transformer> transformer = declared(model, mesh);
  for (const auto& parameter : transformer->parameters()) {
    if (parameter->dtype == at::kChar) names.insert(parameter->name);
  }
  return names;
}

void write_quantized(const std::filesystem::path& from, const std::filesystem::path& to, const TrainConfig& config, const ProcessMesh& mesh,
                     const std::map<std::string, at::Tensor>& input_scales, Logger& log) {
  CheckpointReader reader(from);
  Manifest manifest;
  manifest.step = reader.manifest().step;
  manifest.ranks = 1;
  manifest.expert_parallel = 1;
  manifest.config = to_yaml(config);
  manifest.numbers = reader.manifest().numbers;
  manifest.numbers.erase(state_number::kProofLoss);  // it is another model
  manifest.counters = reader.manifest().counters;
  const std::unique_ptr<Transformer> transformer = declared(config.model, mesh);
  const auto tensors = reader.tensors();
  WorkProgress progress(concat("writing ", to.string()), WorkUnit::kCount, log);
  const auto write_files = [&](ShardWriter& writer) {
    Parts parts(writer);
    int64_t done = 0;
    for (const auto& parameter : transformer->parameters()) {
      progress.at(done++, static_cast<int64_t>(transformer->parameters().size()), "tensors");
      const std::string tensor = concat(state_kind::kMaster, "/", parameter->name);
      if (parameter->dtype == at::kChar) {
        add_quantized(reader, tensor, *parameter, parts);
      } else if (const auto found = tensors.find(tensor); found != tensors.end()) {
        add_copy(reader, tensor, found->second.shape, parts);
      } else if (parameter->name.ends_with(kInputScaleSuffix)) {
        const std::string matrix = parameter->name.substr(0, parameter->name.size() - std::string(kInputScaleSuffix).size());
        parts.add(state_kind::kMaster, parameter->name, parameter->box.global, 0, input_scales.at(matrix));
      } else if (!is_scale(parameter->name)) {
        reader.read(tensor, 0, 1);  // says that it is missing, and what is nearest
      }
    }
    for (const auto& [name, tensor] : tensors) {
      if (name.starts_with(concat(state_kind::kState, "/"))) add_copy(reader, name, tensor.shape, parts);
    }
    parts.write();
  };
  std::exception_ptr of_checkpoint;  // what is wrong with the weights is no error of saving
  try {
    write_checkpoint(to, std::move(manifest), [&](ShardWriter& writer) {
      try {
        write_files(writer);
      } catch (const CheckpointError&) {  // the contract
        of_checkpoint = std::current_exception();
        throw;
      }
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
