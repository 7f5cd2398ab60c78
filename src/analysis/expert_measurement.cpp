#include "analysis/expert_measurement.h"

#include "base/errors.h"
#include "base/work_progress.h"
#include "data/data_stream.h"
#include "data/document_starts.h"
#include "data/token_file.h"
#include "data/tokenizer.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

namespace pimoe {
namespace {

constexpr int64_t kRounds = 99;  ///< of each kind of chance: p is 0.01 at least
constexpr uint64_t kSeed = 1234;
/// Tokens read beyond the last that counts: they end the word that it may stand in.
constexpr int64_t kLookahead = 64;

/// The beginning of a corpus as the model reads it: sequences one after the other, in the corpus' order, so that the text that the classes
/// come from has no gap.
struct Text {
  std::vector<int32_t> ids;  ///< of the tokens that count, and of those that look ahead
  int64_t sequences = 0;
  int64_t tokens = 0;  ///< that count
};

Text read_text(const TokenFile& corpus, const TrainConfig& config, int64_t batches) {
  const SampleReader reader(corpus, config.model.sequence_length, 0, /*shuffle=*/false);
  Text text;
  text.sequences = std::min(reader.samples_per_epoch(), batches * config.train.global_batch);
  text.tokens = text.sequences * config.model.sequence_length;
  const int64_t count = std::min(corpus.token_count(), text.tokens + kLookahead);
  std::vector<int64_t> ids(static_cast<size_t>(count));
  corpus.read(0, count, ids.data());
  corpus.require_ids_below(config.model.vocabulary, 0, ids.data(), count);
  text.ids.assign(ids.begin(), ids.end());
  return text;
}

/// Runs the model over a text. @returns the mean loss of a token
double route_text(const LoadedModel& loaded, const TokenFile& corpus, const Text& text, std::vector<ClassedRouting>& layers) {
  const at::NoGradGuard no_gradients;
  const int64_t length = loaded.config.model.sequence_length;
  const SampleReader reader(corpus, length, 0, /*shuffle=*/false);
  std::optional<DocumentStarts> documents;
  if (loaded.config.data.document_mask) documents.emplace(corpus);
  double loss = 0.0;
  int64_t targets = 0;
  for (int64_t first = 0; first < text.sequences; first += loaded.config.train.micro_batch) {
    const int64_t count = std::min(loaded.config.train.micro_batch, text.sequences - first);
    const at::Tensor rows = at::zeros({count, length + 1}, at::kLong);
    for (int64_t row = 0; row < count; ++row) reader.read(first + row, rows.mutable_data_ptr<int64_t>() + row * (length + 1));
    const at::Tensor of_rows = rows.narrow(1, 1, length).clone(at::MemoryFormat::Contiguous);  // written to: of one row no view
    BatchContext context(first * length, count * length);
    if (documents) {
      RowDocuments packed(length);
      for (int64_t row = 0; row < count; ++row) {
        packed.add_row(documents->inside(reader.begin_of(first + row), length + 1), of_rows[row].mutable_data_ptr<int64_t>());
      }
      context.documents.emplace(packed.starts(), loaded.mesh->device());
    }
    const at::Tensor tokens = rows.narrow(1, 0, length).contiguous().to(loaded.mesh->device());
    const Prediction prediction = loaded.model->forward(tokens, of_rows.to(loaded.mesh->device()), context);
    loss += prediction.cross_entropy_sum.item<double>();
    targets += (of_rows >= 0).sum().item<int64_t>();
    count_work(count);
    for (size_t layer = 0; layer < layers.size(); ++layer) {
      const at::Tensor experts = prediction.routing[layer].experts.cpu().contiguous();
      layers[layer].choices = experts.size(1);
      const int32_t* slots = experts.const_data_ptr<int32_t>();
      layers[layer].expert_of.insert(layers[layer].expert_of.end(), slots, slots + experts.numel());
    }
  }
  return loss / static_cast<double>(std::max<int64_t>(1, targets));
}

std::vector<int64_t> groups_of_experts(const std::vector<ExpertGroupConfig>& groups) {
  std::vector<int64_t> group_of;
  for (size_t group = 0; group < groups.size(); ++group) {
    group_of.insert(group_of.end(), static_cast<size_t>(groups[group].count), static_cast<int64_t>(group));
  }
  return group_of;
}

ExpertLayer judge(int64_t layer, const ClassedRouting& routing, const std::vector<int64_t>& group_of, int64_t groups, int64_t distance) {
  const ClassTable experts = routing.table();
  return {.layer = layer,
          .experts = experts,
          .chance = chance_level(routing, {}, kRounds, distance, kSeed),
          .groups = experts.merged(group_of, groups),
          .group_chance = groups > 1 ? chance_level(routing, group_of, kRounds, distance, kSeed) : ChanceLevel{}};
}

}  // namespace

ExpertReport measure_experts(const LoadedModel& loaded, const ExpertsMeasurement& options) {
  const ModelConfig& model = loaded.config.model;
  const TokenFile corpus(options.data);
  const Tokenizer tokenizer(options.tokenizer);
  if (tokenizer.vocabulary() > model.vocabulary) {
    throw DataError(options.tokenizer.string() + " has more tokens than the model: it is another model's tokenizer");
  }
  const Text text = read_text(corpus, loaded.config, options.batches);
  std::vector<TokenClass> classes = classify_tokens(text.ids, tokenizer, options.kind);
  classes.resize(static_cast<size_t>(text.tokens));

  ExpertReport report;
  report.data = options.data.string();
  report.kind = options.kind;
  report.groups = model.moe.expert_groups();
  report.tokens = text.tokens;
  report.classed = text.tokens - std::count(classes.begin(), classes.end(), kNoClass);
  report.documents = 1 + std::count(text.ids.begin(), text.ids.begin() + text.tokens - 1, tokenizer.end_of_document());
  report.rounds = kRounds;
  const ClassedRouting nothing_yet = {.experts = model.moe.experts,
                                      .choices = 0,
                                      .classes = static_cast<int64_t>(class_names(options.kind).size()),
                                      .class_of = classes,
                                      .expert_of = {}};
  std::vector<ClassedRouting> layers(static_cast<size_t>(model.moe_layers()), nothing_yet);
  report.loss = route_text(loaded, corpus, text, layers);
  const std::vector<int64_t> group_of = groups_of_experts(report.groups);
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    report.layers.push_back(judge(model.moe.first_dense_layers + static_cast<int64_t>(layer), layers[layer], group_of,
                                  static_cast<int64_t>(report.groups.size()), model.sequence_length));
  }
  return report;
}

}  // namespace pimoe
