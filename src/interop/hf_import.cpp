#include "interop/hf_import.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/random.h"
#include "base/strict_json.h"
#include "base/text.h"
#include "base/utf8.h"
#include "base/work_progress.h"
#include "checkpoint/training_state.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/isfinite.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <set>

namespace pimoe {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kLargestConfigBytes = 16 << 20;
constexpr int64_t kLookElements = 8 << 20;

/// What early versions saved beside the weights, and every version computes.
bool is_computed(const std::string& name) { return name.ends_with(".rotary_emb.inv_freq"); }

/// A new router, or what else has no weights to come from. @returns elements [begin, begin + count), float64
at::Tensor new_weights(const WeightPlan& plan, const HfDraw& draw, int64_t begin, int64_t count) {
  const int64_t columns = plan.shape[1];
  const at::Tensor rows = at::empty({plan.shape[0] / plan.repeat, columns}, at::kDouble);
  random_normal(named_key(draw.seed, plan.name), 0, rows.numel(), rows.mutable_data_ptr<double>());
  return rows.mul_(draw.deviation).repeat_interleave(plan.repeat, 0).flatten().narrow(0, begin, count);
}

}  // namespace

HfModel read_hf_model(const fs::path& folder, int64_t sequence_length) {
  const fs::path file = folder / "config.json";
  if (!is_there(folder)) throw DataError(concat("there is no ", folder.string(), ": a Hugging Face model is a folder with config.json"));
  if (!is_there(file)) throw DataError(concat(folder.string(), " has no config.json: it is no Hugging Face model"));
  return model_of_config(read_strict_json(file, kLargestConfigBytes), file.string(), sequence_length);
}

HfImport::HfImport(const fs::path& folder, int64_t sequence_length, const std::optional<Upcycling>& upcycling, const HfReader& reader)
    : folder_(folder), hf_(read_hf_model(folder, sequence_length)), weights_(folder) {
  remarks_ = hf_.remarks;
  model_ = upcycling ? upcycled(hf_.model, *upcycling) : hf_.model;
  plans_ = weight_plans(
      hf_.family, hf_.model, [this](const std::string& name) { return weights_.has(name); },
      [this](const HfPart& part) { check_part(part); });
  if (upcycling) plans_ = upcycled_plans(std::move(plans_), model_, *upcycling);
  for (size_t index = 0; index < plans_.size(); ++index) plan_of_[plans_[index].name] = index;
  check_leftovers(reader);

  choose_dtypes();
}

void HfImport::choose_dtypes() {
  std::map<at::ScalarType, int64_t> elements;
  for (const WeightPlan& plan : plans_) {
    for (const HfPart& part : plan.parts) {
      const SafetensorsEntry& entry = weights_.entry(part.name);
      const at::ScalarType dtype = *weight_dtype(entry.dtype);
      if (dtype == at::kDouble) master_dtype_ = at::kDouble;
      if (!part.wide) elements[dtype] += entry.numel();
    }
  }
  const auto most = std::max_element(elements.begin(), elements.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  dtype_ = most->first;
  for (const auto& [dtype, count] : elements) {
    if (dtype == dtype_) continue;
    remarks_.push_back(concat(grouped(count), " of the weights are in ", safetensors_dtype(dtype), " and ", grouped(most->second), " in ",
                              safetensors_dtype(dtype_), "; an export has one format for all"));
  }
  if (master_dtype_ == at::kDouble && dtype_ != at::kDouble) {
    remarks_.emplace_back(
        "weights in F64 are kept exactly in an imported checkpoint, whose masters are float64 then; training in another train.precision "
        "than "
        "float64, and an export in another --dtype, round them");
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

void HfImport::check_tied_head(const std::string& name, const HfReader& reader) const {
  check_part({name, {hf_.model.vocabulary, hf_.model.width}});
  const int64_t count = weights_.entry(name).numel();
  for (int64_t block = reader.rank; block * kLookElements < count; block += reader.ranks) {
    const int64_t begin = block * kLookElements;
    const int64_t length = std::min(kLookElements, count - begin);
    const auto read = [&](const std::string& tensor) { return weights_.read(tensor, begin, length).to(at::kDouble); };
    if (at::equal(read(name), read("model.embed_tokens.weight"))) continue;
    throw DataError(concat(folder_.string(), ": tie_word_embeddings is true in config.json, and lm_head.weight is not the embedding"));
  }
}

void HfImport::check_leftovers(const HfReader& reader) {
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
      check_tied_head(name, reader);
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

at::Tensor HfImport::read_part(const HfPart& part, int64_t begin, int64_t count) const {
  if (!part.block) return weights_.read(part.name, begin, count);
  const Box& block = *part.block;
  const int64_t columns = block.shape[1], all_columns = block.global[1];
  const int64_t first = begin / columns, last = (begin + count - 1) / columns;  // rows of the block
  const at::Tensor rows =
      weights_.read(part.name, (block.offset[0] + first) * all_columns, (last + 1 - first) * all_columns).view({-1, all_columns});
  return rows.narrow(1, block.offset[1], columns).reshape({-1}).narrow(0, begin - first * columns, count);
}

at::Tensor HfImport::read(const WeightPlan& plan, int64_t begin, int64_t count, const HfDraw& draw) const {
  if (plan.parts.empty()) return new_weights(plan, draw, begin, count).to(master_dtype_);
  at::Tensor values = at::empty({count}, at::TensorOptions().dtype(master_dtype_));
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
    random_normal(named_key(draw.seed, plan.name + ".noise"), static_cast<uint64_t>(begin), count, normal.mutable_data_ptr<double>());
    values.mul_(normal.mul_(plan.noise).add_(1.0));
  }
  return values;
}

void HfImport::fill(const std::vector<StatePiece>& pieces, const HfDraw& draw) const {
  const c10::AutoGradMode no_gradient(false);  // values may be leaves that require one
  for (const StatePiece& state : pieces) {
    const auto plan = plan_of_.find(state.piece.name);
    const bool is_planned = plan != plan_of_.end();
    if (!is_planned && state.kind == state_kind::kMaster) {
      throw DataError(concat(folder_.string(), ": has no weights for ", state.piece.name));
    }
    if (!is_planned || (state.kind != state_kind::kMaster && !plans_[plan->second].is_state)) {
      state.values.zero_();
      count_work(static_cast<int64_t>(state.values.nbytes()));
      continue;
    }
    const WeightPlan& weights = plans_[plan->second];
    if (weights.shape != state.piece.box.global) {
      throw DataError(concat(folder_.string(), ": ", weights.name, " is ", shape_text(weights.shape), " there, and ",
                             shape_text(state.piece.box.global), " in the model that is filled"));
    }
    for (const Run& run : runs_of(state.piece)) {
      for (int64_t done = 0; done < run.length; done += kLookElements) {
        const int64_t some = std::min(kLookElements, run.length - done);
        state.values.narrow(0, run.local_begin + done, some).copy_(read(weights, run.global_begin + done, some, draw));
        count_work(some * static_cast<int64_t>(state.values.element_size()));
      }
    }
  }
}

}  // namespace pimoe
