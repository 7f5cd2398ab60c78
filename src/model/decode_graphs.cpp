#include "model/decode_graphs.h"

#include "ops/paged_attention.h"
#include "parallel/device_graph.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <bit>

namespace pimoe {
namespace {

constexpr int kPassesBefore = 2;          // libraries choose their algorithms in the first
constexpr int64_t kLeastPositions = 512;  // of a graph's tables

}  // namespace

struct DecodeGraphs::Recorded {
  int passes = 0;
  at::Tensor inputs;  ///< int32 on the device: tables, positions, tokens
  at::Tensor scores;
  std::vector<std::vector<PhaseMarks>> marks;  ///< which the graph sets each time, and so have to outlive it
  std::unique_ptr<DeviceGraph> graph;
};

DecodeGraphs::DecodeGraphs(const Transformer& model, const KeyValueCache& cache, const ProcessMesh& mesh, int64_t most, Observer observer)
    : model_(model), cache_(cache), mesh_(mesh), most_(most), observer_(std::move(observer)), stream_(mesh.device()) {
  const ModelConfig& config = model.config();
  if (!mesh.device().is_cuda()) {
    obstacle_ = "the model is on the CPU";
  } else if (mesh.size() > 1) {
    obstacle_ = "what travels between ranks is not recorded";
  } else if (!has_paged_kernel(model.dtype(), config.key_width(), config.value_width())) {
    obstacle_ = "heads are too wide for the kernel of attention over pages";
  } else {
    obstacle_ = model.recording_obstacle();
  }
}

DecodeGraphs::~DecodeGraphs() = default;

int64_t DecodeGraphs::recorded() const {
  return std::count_if(passes_.begin(), passes_.end(), [](const auto& pass) { return pass.second->graph != nullptr; });
}

std::optional<at::Tensor> DecodeGraphs::replay(const std::vector<int64_t>& tokens, const std::vector<CachedPart>& parts) {
  const auto count = static_cast<int64_t>(parts.size());
  if (!obstacle_.empty() || count == 0 || count > most_) return std::nullopt;
  if (!std::all_of(parts.begin(), parts.end(), [](const CachedPart& part) { return part.count == 1 && part.scored == 1; })) {
    return std::nullopt;
  }
  int64_t longest = kLeastPositions;
  for (const CachedPart& part : parts) longest = std::max(longest, part.first + 1);
  const Shape shape{count, static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(longest)))};
  std::unique_ptr<Recorded>& known = passes_[shape];
  if (!known) known = std::make_unique<Recorded>();
  Recorded& pass = *known;
  if (!pass.graph) {
    if (++pass.passes <= kPassesBefore) return std::nullopt;
    record(shape, pass);
    if (!pass.graph) return std::nullopt;
  }

  std::vector<int32_t> numbers;
  numbers.reserve(static_cast<size_t>(pass.inputs.numel()));
  append_tables(parts, cache_.page_tokens, KeyValueCache::pages_for(shape.second, cache_.page_tokens), numbers);
  for (const CachedPart& part : parts) numbers.push_back(static_cast<int32_t>(part.first));
  for (const int64_t token : tokens) numbers.push_back(static_cast<int32_t>(token));
  const at::Tensor host = at::tensor(numbers, at::kInt);
  stream_.run({pass.inputs}, [&] {
    pass.inputs.copy_(host);
    pass.graph->replay();
  });
  stream_.join();
  return pass.scores;
}

void DecodeGraphs::record(const Shape& shape, Recorded& pass) {
  const auto [count, positions] = shape;
  const int64_t width = KeyValueCache::pages_for(positions, cache_.page_tokens);
  const auto options = at::TensorOptions().dtype(at::kInt).device(mesh_.device());
  try {
    if (!scores_.defined()) {
      scores_ = at::empty({most_, model_.config().vocabulary}, options.dtype(at_least_float32(model_.dtype())));
    }
    const PagedTableSizes tables{.runs = count, .parts = count, .width = width, .tokens = count, .longest = positions};
    pass.inputs = at::zeros({tables.numbers() + 2 * count}, options);
    const at::Tensor at_positions = pass.inputs.narrow(0, tables.numbers(), count);
    const at::Tensor tokens = pass.inputs.narrow(0, tables.numbers() + count, count);
    pass.scores = scores_.narrow(0, 0, count);
    stream_.run({}, [&] {
      const auto work = [&] {
        BatchContext context(0, count);
        context.static_rows = true;
        std::vector<RoutingRecord> routing;
        const CachedTokens places(tables_in(pass.inputs, tables), at_positions, cache_, model_.rotary());
        pass.scores.copy_(model_.extend(tokens.to(at::kLong), places, cache_, std::move(context), &routing));
        if (observer_) observer_(routing);
        for (RoutingRecord& record : routing) pass.marks.push_back(std::move(record.phases));
      };
      pass.graph = std::make_unique<DeviceGraph>(mesh_.device(), work, first_ != nullptr ? first_->graph.get() : nullptr);
    });
    stream_.join();
    if (first_ == nullptr) first_ = &pass;
  } catch (const c10::Error& error) {
    const std::string text = error.what_without_backtrace();
    obstacle_ = text.substr(0, text.find('\n'));
    pass = {};
  }
}

}  // namespace pimoe
