#include "model/generation.h"

#include "base/errors.h"
#include "base/number_text.h"
#include "base/random.h"
#include "base/text.h"
#include "base/work_progress.h"
#include "model/decode_graphs.h"
#include "moe/layout_dependence.h"
#include "ops/kept_layouts.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <numeric>
#include <optional>

namespace pimoe {
namespace {

/// A sequence with its place in the cache.
struct Lane {
  size_t prompt;
  std::vector<int64_t> tokens;  ///< the prompt's and those added
  int64_t kept = 0;             ///< tokens whose keys and values are in the cache
};

uint64_t key_of(uint64_t seed, size_t prompt) { return named_key(seed, prompt == 0 ? "sampling" : concat("sampling.", prompt)); }

/// One rank's prompts.
class Generator {
 public:
  Generator(const Transformer& model, const std::vector<std::vector<int32_t>>& prompts, const ProcessMesh& mesh,
            const GenerationOptions& options, const ContinuationEnds& ends)
      : model_(model),
        prompts_(prompts),
        mesh_(mesh),
        options_(options),
        ends_(ends),
        room_(model.config().sequence_length),
        results_(prompts.size()),
        next_(static_cast<size_t>(mesh.rank())),
        layouts_(model.weights()) {
    if (routes_by_batch(model.config().moe) && model.config().moe_layers() > 0) {
      options_.batch = 1;
      options_.cached = false;
    }
    const int64_t here = (static_cast<int64_t>(prompts.size()) + mesh.size() - 1 - mesh.rank()) / mesh.size();
    lanes_.resize(static_cast<size_t>(std::clamp<int64_t>(here, 0, options_.batch)));
    pages_of_lane_ = KeyValueCache::pages_for(room_);
    cache_.emplace(model.config(), model.dtype(), mesh.device(), static_cast<int64_t>(lanes_.size()) * pages_of_lane_);
    graphs_.emplace(model, *cache_, mesh, static_cast<int64_t>(lanes_.size()));
  }

  std::vector<Continuation> run() {
    const KeptLayouts::Use use(layouts_);
    while (step()) {
    }
    return std::move(results_);
  }

 private:
  /// One token more for each sequence. @returns whether any rank had one
  bool step() {
    fill_lanes();
    std::vector<int64_t> ids;
    std::vector<CachedPart> parts;
    std::vector<Lane*> lanes;
    for (size_t place = 0; place < lanes_.size(); ++place) {
      if (!lanes_[place]) continue;
      Lane& lane = *lanes_[place];
      const auto all = static_cast<int64_t>(lane.tokens.size());
      const bool behind_kept = options_.cached && lane.kept > 0 && all <= room_;
      const int64_t count = behind_kept ? 1 : std::min(all, room_);
      CachedPart part{
          {.pages = std::vector<int64_t>(static_cast<size_t>(pages_of_lane_)), .first = behind_kept ? lane.kept : 0, .count = count}};
      std::iota(part.pages.begin(), part.pages.end(), static_cast<int64_t>(place) * pages_of_lane_);
      parts.push_back(std::move(part));
      ids.insert(ids.end(), lane.tokens.end() - count, lane.tokens.end());
      lane.kept = std::min(all, room_);
      lanes.push_back(&lane);
    }
    const int64_t most = most_on_any_rank(static_cast<int64_t>(ids.size()));
    if (most == 0) return false;
    const at::Tensor logits = scores_of(ids, parts, most).cpu();  // ranks without tokens take part in the exchanges
    for (size_t at = 0; at < lanes.size(); ++at) take_token(*lanes[at], logits[static_cast<int64_t>(at)]);
    count_work(static_cast<int64_t>(lanes.size()));
    for (std::optional<Lane>& lane : lanes_) {
      if (lane && ended_[lane->prompt]) lane.reset();
    }
    return true;
  }

  at::Tensor scores_of(const std::vector<int64_t>& ids, const std::vector<CachedPart>& parts, int64_t most) {
    if (std::optional<at::Tensor> scores = graphs_->replay(ids, parts)) return *scores;
    return model_.extend(at::tensor(ids, at::kLong).to(mesh_.device()), parts, *cache_, most);
  }

  void fill_lanes() {
    for (std::optional<Lane>& lane : lanes_) {
      if (lane || next_ >= prompts_.size()) continue;
      const std::vector<int32_t>& prompt = prompts_[next_];
      lane = Lane{next_, {prompt.begin(), prompt.end()}};
      next_ += static_cast<size_t>(mesh_.size());
    }
  }

  int64_t most_on_any_rank(int64_t here) const {
    if (mesh_.size() == 1) return here;
    at::Tensor most = at::tensor({here}, at::kLong);
    mesh_.control().all_reduce(most, ReduceOp::kMax);
    return most.item<int64_t>();
  }

  void take_token(Lane& lane, const at::Tensor& logits) {
    const SamplingOptions& sampling = options_.sampling;
    Continuation& result = results_[lane.prompt];
    result.forgotten = std::max<int64_t>(0, static_cast<int64_t>(lane.tokens.size()) - room_);
    const double draw = random_uniform(key_of(sampling.seed, lane.prompt), result.tokens.size());
    const int32_t token = sample_token(penalised(logits, lane.tokens, sampling.repetition_penalty), sampling, draw);
    if (token == sampling.stop_token) {
      result.ending = Ending::kStopToken;
      ended_[lane.prompt] = true;
      return;
    }
    result.tokens.push_back(token);
    lane.tokens.push_back(token);
    const bool stopped = ends_ && ends_(lane.prompt, result.tokens);
    result.ending = stopped ? Ending::kStopped : Ending::kTokens;
    ended_[lane.prompt] = stopped || static_cast<int64_t>(result.tokens.size()) >= sampling.tokens;
  }

  const Transformer& model_;
  const std::vector<std::vector<int32_t>>& prompts_;
  const ProcessMesh& mesh_;
  GenerationOptions options_;
  const ContinuationEnds& ends_;
  int64_t room_;  ///< positions that the model sees
  std::vector<Continuation> results_;
  std::vector<bool> ended_ = std::vector<bool>(results_.size());
  size_t next_;  ///< of this rank's prompts
  std::vector<std::optional<Lane>> lanes_;
  int64_t pages_of_lane_ = 0;  ///< lane i has as many from i times that on
  std::optional<KeyValueCache> cache_;
  std::optional<DecodeGraphs> graphs_;
  KeptLayouts layouts_;
};

/// Each rank's prompts, on every rank: a row [ending, forgotten, count, tokens...] of each prompt, which is zero on all ranks but one.
void share_out(std::vector<Continuation>& results, const ProcessMesh& mesh) {
  constexpr int64_t kHead = 3;
  int64_t longest = 0;
  for (const Continuation& each : results) longest = std::max(longest, static_cast<int64_t>(each.tokens.size()));
  at::Tensor width = at::tensor({longest}, at::kLong);
  mesh.control().all_reduce(width, ReduceOp::kMax);
  const auto count = static_cast<int64_t>(results.size());
  const int64_t row_width = kHead + width.item<int64_t>();
  at::Tensor all = at::zeros({count, row_width}, at::kLong);
  const auto row_of = [&](int64_t prompt) { return all.mutable_data_ptr<int64_t>() + prompt * row_width; };
  for (int64_t prompt = mesh.rank(); prompt < count; prompt += mesh.size()) {
    const Continuation& mine = results[static_cast<size_t>(prompt)];
    int64_t* row = row_of(prompt);
    row[0] = static_cast<int64_t>(mine.ending);
    row[1] = mine.forgotten;
    row[2] = static_cast<int64_t>(mine.tokens.size());
    std::copy(mine.tokens.begin(), mine.tokens.end(), row + kHead);
  }
  mesh.control().all_reduce(all);
  for (int64_t prompt = 0; prompt < count; ++prompt) {
    const int64_t* row = row_of(prompt);
    Continuation& result = results[static_cast<size_t>(prompt)];
    result.ending = static_cast<Ending>(row[0]);
    result.forgotten = row[1];
    result.tokens.assign(row + kHead, row + kHead + row[2]);
  }
}

}  // namespace

bool routes_by_batch(const MoeConfig& moe) { return moe.experts > 0 && moe.router_traits().even; }

std::vector<std::string> leave_out_what_batches_change(ModelConfig& config) {
  if (config.moe_layers() == 0) return {};
  MoeConfig& moe = config.moe;
  const double capacity = moe.capacity_factor;
  const bool drops = moe.drops_above_budget();
  leave_out_what_layouts_change(moe);
  std::vector<std::string> notes;
  if (capacity > 0) {
    notes.push_back(concat("model.moe.capacity_factor (", shortest(capacity),
                           ") is left out: what it drops goes by the other tokens of a batch, and one token at a time has none"));
  }
  if (drops) notes.push_back("model.moe.rank_overflow (drop) is left out: what it drops goes by the other tokens of a batch");
  if (routes_by_batch(moe)) {
    notes.push_back(concat("model.moe.router.kind (", moe.router_kind(),
                           ") goes by the other tokens of a sequence: each token computes all of them again, one prompt at a time"));
  }
  return notes;
}

std::vector<Continuation> continue_prompts(const Transformer& model, const std::vector<std::vector<int32_t>>& prompts,
                                           const ProcessMesh& mesh, const GenerationOptions& options, const ContinuationEnds& ends) {
  for (const std::vector<int32_t>& prompt : prompts) {
    if (prompt.empty() || options.batch < 1) throw ShapeError("continue_prompts: a prompt without tokens, or a batch below 1");
  }
  if (prompts.empty() || options.sampling.tokens <= 0) return std::vector<Continuation>(prompts.size());
  const at::NoGradGuard no_gradients;
  std::vector<Continuation> results = Generator(model, prompts, mesh, options, ends).run();
  if (mesh.size() > 1) share_out(results, mesh);
  return results;
}

}  // namespace pimoe
