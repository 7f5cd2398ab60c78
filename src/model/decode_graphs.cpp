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
constexpr int64_t kNumbersOfRun = 4;      // PagedTables::runs

}  // namespace

struct DecodeGraphs::Recorded {
  int passes = 0;
  at::Tensor inputs;  ///< int32 on the device: runs, pages, slots, positions, tokens
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
  const auto add = [&](int64_t number) { numbers.push_back(static_cast<int32_t>(number)); };
  for (int64_t row = 0; row < count; ++row) {
    for (const int64_t number : {row, parts[static_cast<size_t>(row)].first, int64_t{1}, row}) add(number);
  }
  const int64_t width = KeyValueCache::pages_for(shape.second, cache_.page_tokens);
  for (const CachedPart& part : parts) {
    for (int64_t at = 0; at < width; ++at) add(at < static_cast<int64_t>(part.pages.size()) ? part.pages[static_cast<size_t>(at)] : 0);
  }
  for (const CachedPart& part : parts) {
    add(part.pages.at(static_cast<size_t>(part.first / cache_.page_tokens)) * cache_.page_tokens + part.first % cache_.page_tokens);
  }
  for (const CachedPart& part : parts) add(part.first);
  for (const int64_t token : tokens) add(token);
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
    const std::vector<int64_t> sizes = {count * kNumbersOfRun, count * width, count, count, count};
    int64_t numbers = 0;
    for (const int64_t size : sizes) numbers += size;
    pass.inputs = at::zeros({numbers}, options);
    pass.scores = scores_.narrow(0, 0, count);
    const std::vector<at::Tensor> inputs = pass.inputs.split_with_sizes(sizes);
    stream_.run({}, [&] {
      const auto work = [&] {
        const PagedTables tables{.runs = inputs[0].view({count, kNumbersOfRun}),
                                 .slots = inputs[2],
                                 .pages = inputs[1].view({count, width}),
                                 .longest = positions};
        BatchContext context(0, count);
        context.static_rows = true;
        std::vector<RoutingRecord> routing;
        const CachedTokens places(tables, inputs[3], cache_, model_.rotary());
        pass.scores.copy_(model_.extend(inputs[4].to(at::kLong), places, cache_, std::move(context), &routing));
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
