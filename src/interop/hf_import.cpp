#include "interop/hf_import.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/random.h"
#include "base/strict_json.h"
#include "base/text.h"
#include "base/utf8.h"
#include "checkpoint/local_save.h"
#include "checkpoint/shard_plan.h"
#include "checkpoint/training_state.h"
#include "interop/transfer_progress.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <exception>
#include <map>
#include <set>

namespace pimoe {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kLargestConfigBytes = 16 << 20;
constexpr int64_t kPartBytes = int64_t{1} << 28;
constexpr int64_t kLookElements = 8 << 20;

/// What early versions saved beside the weights, and every version computes.
bool is_computed(const std::string& name) { return name.ends_with(".rotary_emb.inv_freq"); }

/// A new router, or what else has no weights to come from. @returns elements [begin, begin + count), float64
at::Tensor new_weights(const WeightPlan& plan, double deviation, uint64_t seed, int64_t begin, int64_t count) {
  const int64_t columns = plan.shape[1];
  const at::Tensor rows = at::empty({plan.shape[0] / plan.repeat, columns}, at::kDouble);
  random_normal(named_key(seed, plan.name), 0, rows.numel(), rows.mutable_data_ptr<double>());
  return rows.mul_(deviation).repeat_interleave(plan.repeat, 0).flatten().narrow(0, begin, count);
}

}  // namespace

const std::vector<std::string>& companion_names() {
  static const std::vector<std::string> names = {
      "config.json",        "generation_config.json", "tokenizer.json",        "tokenizer.model", "vocab.json",
      "merges.txt",         "added_tokens.json",      "tokenizer_config.json", "vocab.txt",       "special_tokens_map.json",
      "chat_template.json", "chat_template.jinja"};
  return names;
}

HfImport::HfImport(const fs::path& folder, int64_t sequence_length, const std::optional<Upcycling>& upcycling)
    : folder_(folder), weights_(folder) {
  const fs::path file = folder / "config.json";
  hf_ = model_of_config(read_strict_json(file, kLargestConfigBytes), file.string(), sequence_length);
  remarks_ = hf_.remarks;
  model_ = upcycling ? upcycled(hf_.model, *upcycling) : hf_.model;
  plans_ = weight_plans(
      hf_.family, hf_.model, [this](const std::string& name) { return weights_.has(name); },
      [this](const HfPart& part) { check_part(part); });
  if (upcycling) plans_ = upcycled_plans(std::move(plans_), model_, *upcycling);
  check_leftovers();

  std::map<at::ScalarType, int64_t> elements;
  for (const WeightPlan& plan : plans_) {
    for (const HfPart& part : plan.parts) {
      if (part.wide) continue;
      const SafetensorsEntry& entry = weights_.entry(part.name);
      elements[*weight_dtype(entry.dtype)] += entry.numel();
    }
  }
  const auto most = std::max_element(elements.begin(), elements.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  dtype_ = most->first;
  for (const auto& [dtype, count] : elements) {
    if (dtype == dtype_) continue;
    remarks_.push_back(concat(grouped(count), " of the weights are in ", safetensors_dtype(dtype), " and ", grouped(most->second), " in ",
                              safetensors_dtype(dtype_), ": all are kept exactly here; an export has one format for all"));
  }
}

void HfImport::check_part(const HfPart& part) const {
  if (!weights_.has(part.name)) {
    const std::string nearest = nearest_name(part.name, weights_.names());
    throw DataError(concat(folder_.string(), ": has no tensor ", part.name, " ", shape_text(part.shape), ", which config.json speaks of",
                           nearest.empty() ? "" : concat("; the nearest that it has is ", printable(nearest))));
  }
  const SafetensorsEntry& entry = weights_.entry(part.name);
  if (entry.shape != part.shape) {
    throw DataError(concat(folder_.string(), ": ", part.name, " is ", shape_text(entry.shape), ", and by config.json must be ",
                           shape_text(part.shape)));
  }
  if (!weight_dtype(entry.dtype)) {
    throw DataError(concat(folder_.string(), ": ", part.name, " is in ", entry.dtype, "; weights are read in F64, F32, F16 or BF16"));
  }
}

bool HfImport::is_predictors(const std::string& name) const {
  for (int64_t layer = hf_.model.layers; layer < hf_.model.layers + hf_.predictors; ++layer) {
    if (name.starts_with(concat("model.layers.", layer, "."))) return true;
  }
  return false;
}

void HfImport::check_leftovers() {
  bool has_predictors = false;
  std::set<std::string> used;
  for (const WeightPlan& plan : plans_) {
    for (const HfPart& part : plan.parts) used.insert(part.name);
  }
  for (const std::string& name : weights_.names()) {
    if (used.contains(name) || is_computed(name)) continue;
    if (is_predictors(name)) {
      has_predictors = true;
      continue;
    }
    if (name == "lm_head.weight" && hf_.model.tie_embeddings) {
      // Some files have the tied head too.
      const HfPart head{name, {hf_.model.vocabulary, hf_.model.width}};
      check_part(head);
      const int64_t count = weights_.entry(name).numel();
      for (int64_t begin = 0; begin < count; begin += kLookElements) {
        const int64_t length = std::min(kLookElements, count - begin);
        const auto read = [&](const std::string& tensor) { return weights_.read(tensor, begin, length).to(at::kDouble); };
        if (at::equal(read(name), read("model.embed_tokens.weight"))) continue;
        throw DataError(concat(folder_.string(), ": tie_word_embeddings is true in config.json, and lm_head.weight is not the embedding"));
      }
      remarks_.emplace_back("lm_head.weight is the embedding (tie_word_embeddings), and is left out");
      continue;
    }
    throw DataError(concat(folder_.string(), ": has the tensor '", printable(name), "', for which a ", traits_of(hf_.family).model_type,
                           " as config.json describes it has no place"));
  }
  if (!has_predictors) return;
  remarks_.push_back(concat("num_nextn_predict_layers (", hf_.predictors,
                            "): the layers that predict further tokens are left out: they change no result of the others"));
}

int64_t HfImport::parameters() const {
  int64_t sum = 0;
  for (const WeightPlan& plan : plans_) sum += plan.is_state ? 0 : Box::whole(plan.shape).numel();
  return sum;
}

std::vector<std::string> HfImport::companions() const {
  std::vector<std::string> found;
  for (const std::string& name : companion_names()) {
    if (is_there(folder_ / name)) found.push_back(name);
  }
  return found;
}

at::Tensor HfImport::read_part(const HfPart& part, int64_t begin, int64_t count) const {
  if (!part.block) return weights_.read(part.name, begin, count);
  const Box& block = *part.block;
  const int64_t columns = block.shape[1], all_columns = block.global[1];
  const int64_t first = begin / columns, last = (begin + count - 1) / columns;  // rows of the block
  const at::Tensor rows =
      weights_.read(part.name, (block.offset[0] + first) * all_columns, (last + 1 - first) * all_columns).view({-1, all_columns});
  return rows.narrow(1, block.offset[1], columns).reshape({-1}).narrow(0, begin - first * columns, count);
}

at::Tensor HfImport::read(const WeightPlan& plan, int64_t begin, int64_t count, uint64_t seed) const {
  const at::ScalarType masters = dtype_ == at::kDouble ? at::kDouble : at::kFloat;
  if (plan.parts.empty()) return new_weights(plan, model_.initial_deviation, seed, begin, count).to(masters);
  at::Tensor values = at::empty({count}, at::TensorOptions().dtype(masters));
  int64_t at = 0;  // where a part begins in the parameter
  for (const HfPart& part : plan.parts) {
    const int64_t length = part.numel();
    const int64_t from = std::max(begin, at);
    const int64_t to = std::min(begin + count, at + length);
    for (int64_t first = from; first < to; first += kLookElements) {
      const int64_t some = std::min(kLookElements, to - first);
      const at::Tensor stored = read_part(part, first - at, some);
      if (!at::isfinite(stored).all().item<bool>()) {
        throw DataError(concat(folder_.string(), ": ", part.name, " has numbers that are not finite"));
      }
      values.narrow(0, first - begin, some).copy_(stored);
    }
    at += length;
  }
  if (plan.factor != 1.0) values.mul_(plan.factor);
  if (plan.noise > 0) {
    const at::Tensor normal = at::empty({count}, at::kDouble);
    random_normal(named_key(seed, plan.name + ".noise"), static_cast<uint64_t>(begin), count, normal.mutable_data_ptr<double>());
    values.mul_(normal.mul_(plan.noise).add_(1.0));
  }
  return values;
}

void HfImport::write(const fs::path& checkpoint, const std::string& config, uint64_t seed, Logger& log) const {
  const at::ScalarType masters = dtype_ == at::kDouble ? at::kDouble : at::kFloat;
  std::map<std::string, const WeightPlan*> plan_of;
  std::vector<StatePiece> pieces;
  const auto add = [&](const char* kind, const std::string& name, const std::vector<int64_t>& shape, at::ScalarType dtype) {
    const Box box = Box::whole(shape);
    // One element stands for all: the files are planned before their memory is taken.
    const at::Tensor values = at::empty({1}, at::TensorOptions().dtype(dtype)).expand({box.numel()});
    pieces.push_back({kind, {name, box, 0, box.numel()}, values});
  };
  // Masters first: who wants the weights alone reads a third of the files.
  for (const char* kind : {state_kind::kMaster, state_kind::kFirstMoment, state_kind::kSecondMoment}) {
    for (const WeightPlan& plan : plans_) {
      plan_of[plan.name] = &plan;
      if (!plan.is_state) add(kind, plan.name, plan.shape, masters);
    }
  }
  for (const std::string& router : model_.router_names()) {
    add(state_kind::kState, router + ".bias", {model_.moe.experts}, masters);
  }
  int64_t total = 0;
  for (const StatePiece& state : pieces) total += state.piece.numel() * state.values.element_size();

  Manifest manifest;
  manifest.ranks = 1;
  manifest.expert_parallel = 1;
  manifest.config = config;
  manifest.numbers[state_number::kLossScale] = 1.0;
  for (const char* counter :
       {state_counter::kTokensSeen, state_counter::kNextSample, state_counter::kOptimizerSteps, state_counter::kSkippedInARow,
        state_counter::kNotFiniteInARow, state_counter::kLossScaleDynamic, state_counter::kLossScaleGoodSteps}) {
    manifest.counters[counter] = 0;
  }
  TransferProgress progress(total, log);
  std::exception_ptr of_data;  // what is wrong with the model is not an error of saving
  const auto write_files = [&](ShardWriter& writer) {
    size_t part = 0;
    for (std::vector<StatePiece>& states : plan_parts(pieces, kPartBytes)) {
      for (StatePiece& state : states) {
        const int64_t count = state.piece.numel();
        const auto plan = plan_of.find(state.piece.name);
        const bool is_read = plan != plan_of.end() && (state.kind == state_kind::kMaster || plan->second->is_state);
        state.values = is_read ? read(*plan->second, state.piece.begin, count, seed) : at::zeros({count}, state.values.options());
        progress.moved(static_cast<int64_t>(state.values.nbytes()));
      }
      writer.add(shard_name(0, 1, part++), states);
      states.clear();  // or all parts would stay in memory to the end
    }
  };
  try {
    write_checkpoint(checkpoint, std::move(manifest), [&](ShardWriter& writer) {
      try {
        write_files(writer);
      } catch (const DataError&) {  // the contract
        of_data = std::current_exception();
        throw;
      }
    });
  } catch (const SaveError&) {  // likewise
    if (of_data) std::rethrow_exception(of_data);
    throw;
  }
}

}  // namespace pimoe
