#include "interop/hf_export.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/strict_json.h"
#include "base/text.h"
#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/training_state.h"
#include "data/sentencepiece_json.h"
#include "data/tokenizer.h"
#include "interop/hf_companions.h"
#include "interop/safetensors_folder.h"
#include "interop/transfer_progress.h"
#include "interop/upcycle.h"
#include "interop/weight_names.h"
#include "moe/adaptive_control.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/isfinite.h>

namespace pimoe {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr uint64_t kLargestConfigBytes = 16 << 20;
constexpr uint64_t kLargestCompanionBytes = 1 << 30;

/// A tensor of theirs: a stretch of one of ours.
struct Source {
  std::string ours;  ///< "master/layers.0.attention.qkv.weight"
  int64_t begin = 0;
};

/// @throws DataError where the routers have a temperature, or a bias that the family has no place for
void require_routers_of(HfFamily family, CheckpointReader& reader, const ModelConfig& model) {
  if (model.moe_layers() == 0) return;
  const double temperature = AdaptiveControl::temperature_in(reader.manifest().numbers).value_or(model.moe.router.temperature);
  if (temperature != 1) {
    throw DataError(concat("the routers' temperature (", temperature, ") cannot be exported: transformers' families have none"));
  }
  if (family == HfFamily::kDeepseekV3) return;
  const auto tensors = reader.tensors();
  for (const std::string& router : model.router_names()) {
    const std::string bias = concat(state_kind::kState, "/", router, ".bias");
    if (!tensors.contains(bias)) continue;
    if (reader.read(bias, 0, model.moe.experts).ne(0).any().item<bool>()) {
      throw DataError(concat(bias,
                             ", the bias of loss-free balancing, is not zero, and cannot be exported: of transformers' families "
                             "DeepSeek-V3 alone has one; others would "
                             "choose other experts"));
    }
  }
}

void require_shape(const std::map<std::string, CheckpointReader::Tensor>& tensors, const WeightPlan& plan, const std::string& ours) {
  const auto found = tensors.find(ours);
  if (found != tensors.end() && found->second.shape != plan.shape) {
    throw CheckpointError(concat(plan.name, " is ", shape_text(found->second.shape),
                                 " in the checkpoint, and by its configuration must be ", shape_text(plan.shape)));
  }
}

void write_text(const fs::path& file, const std::string& text) { write_durably(file, text.data(), text.size()); }

/// The tokenizer that a run was trained with, under the name that transformers looks for, with what lies beside it to say what its special tokens are.
/// Where nothing does, transformers would take the tokenizer of the model's family for it, whose words are cut otherwise, and no text would have an end.
void carry_tokenizer(const fs::path& tokenizer, int64_t sequence_length, const fs::path& folder, std::vector<std::string>& files) {
  const auto write = [&](const char* name, const std::string& content) {
    write_text(folder / name, content);
    files.emplace_back(name);
  };
  const std::string content = read_regular_file(tokenizer, kLargestCompanionBytes);
  const bool is_json = content.starts_with('{');
  write(is_json ? "tokenizer.json" : "tokenizer.model", content);
  // transformers reads tokenizer.model by another package, and other programs not at all.
  if (const auto json = is_json ? std::nullopt : tokenizer_json_of(content)) write("tokenizer.json", *json);
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}) {
    const fs::path beside = tokenizer.parent_path() / name;
    if (!is_json || !is_there(beside) || is_there(folder / name)) continue;
    write(name, read_regular_file(beside, kLargestCompanionBytes));
  }
  if (is_there(folder / "tokenizer_config.json")) return;
  const Tokenizer read(tokenizer);
  const Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},  // as the file says, and nothing else
                       {"eos_token", read.piece(read.end_of_document())},
                       {"clean_up_tokenization_spaces", false},
                       {"model_max_length", sequence_length}};
  write("tokenizer_config.json", config.dump(2) + "\n");
}

/// @returns what config.json of the origin says of a model of this family. One of Qwen's families with experts may say that no layer has any
/// (mlp_only_layers): such a model is the dense family's, and what is not of it stays behind.
Json carried_config(const fs::path& companions, HfFamily family) {
  if (companions.empty() || !is_there(companions / "config.json")) return Json::object();
  Json config = read_strict_json(companions / "config.json", kLargestConfigBytes);
  const Json type = config.value("model_type", Json());
  const bool without_experts = (family == HfFamily::kQwen3 && type == traits_of(HfFamily::kQwen3Moe).model_type) ||
                               (family == HfFamily::kQwen2 && type == traits_of(HfFamily::kQwen2Moe).model_type);
  return without_experts ? config_of_any_family(config) : config;
}

/// All files beside the weights. @param config  config.json's content
void write_companions(const ModelConfig& model, const Json& config, const HfExportOptions& options, const fs::path& folder,
                      HfExportFacts& facts, Logger& log) {
  bool has_tokenizer = false;
  for (const std::string& name : companion_names()) {
    if (name == "config.json" || options.companions.empty() || !is_there(options.companions / name)) continue;
    write_text(folder / name, read_regular_file(options.companions / name, kLargestCompanionBytes));
    has_tokenizer = has_tokenizer || name.starts_with("tokenizer.");
    facts.files.push_back(name);
  }
  if (!has_tokenizer && !options.tokenizer.empty()) {
    carry_tokenizer(options.tokenizer, model.sequence_length, folder, facts.files);
    if (facts.family == HfFamily::kQwen2) {
      log.warning(
          "transformers' AutoTokenizer takes Qwen2's way of cutting words for every model of its family, whatever the folder says: "
          "load this tokenizer by PreTrainedTokenizerFast");
    }
  }
  if (!is_there(folder / "generation_config.json")) {
    Json generation = {{"_from_model_config", true}};
    for (const char* id : {"bos_token_id", "eos_token_id", "pad_token_id"}) {
      if (!config.at(id).is_null()) generation[id] = config.at(id);
    }
    write_text(folder / "generation_config.json", generation.dump(2) + "\n");
    facts.files.emplace_back("generation_config.json");
  }
  write_text(folder / "config.json", config.dump(2) + "\n");  // last: without it the folder is no model
  facts.files.emplace_back("config.json");
}

}  // namespace

HfExportFacts export_to_hf(const fs::path& checkpoint, const ModelConfig& model, const fs::path& folder, const HfExportOptions& options,
                           Logger& log) {
  HfExportFacts facts;
  facts.family = family_of(model);
  const Json carried = carried_config(options.companions, facts.family);
  const char* const dtype = options.dtype == at::kBFloat16 ? "bfloat16"
                            : options.dtype == at::kHalf   ? "float16"
                            : options.dtype == at::kDouble ? "float64"
                                                           : "float32";
  const at::ScalarType wide = options.dtype == at::kDouble ? at::kDouble : at::kFloat;
  Json config = config_of_model(model, carried, dtype);
  if (carried.empty() && options.end_of_document >= 0) config["eos_token_id"] = options.end_of_document;

  CheckpointReader reader(checkpoint);
  require_routers_of(facts.family, reader, model);
  std::vector<SafetensorsTensor> tensors;
  std::vector<Source> sources;
  const auto stored = reader.tensors();
  const auto none = [](const std::string&) { return false; };
  for (const WeightPlan& plan : weight_plans(facts.family, model, none, [](const HfPart&) {})) {
    const std::string ours = concat(plan.is_state ? state_kind::kState : state_kind::kMaster, "/", plan.name);
    require_shape(stored, plan, ours);
    int64_t begin = 0;
    for (const HfPart& part : plan.parts) {
      tensors.push_back({part.name, part.shape, part.wide ? std::optional(wide) : std::nullopt});
      sources.push_back({ours, begin});
      begin += Box::whole(part.shape).numel();
      facts.bytes += tensors.back().bytes(options.dtype);
    }
    if (!plan.is_state) facts.parameters += begin;
  }

  TransferProgress progress(facts.bytes, log);
  const auto elements = [&](size_t index, int64_t begin, int64_t count) {
    const Source& source = sources[index];
    const at::Tensor values = reader.read(source.ours, source.begin + begin, source.begin + begin + count)
                                  .to(tensors[index].dtype.value_or(options.dtype))
                                  .contiguous();
    if (!at::isfinite(values).all().item<bool>()) {
      throw DataError(concat(tensors[index].name, " has numbers that are not finite in ", dtype));
    }
    progress.moved(static_cast<int64_t>(values.nbytes()));
    return values;
  };
  facts.files = write_safetensors_folder(folder, tensors, options.dtype, options.shard_bytes, elements);

  write_companions(model, config, options, folder, facts, log);
  sync_folder(folder);
  return facts;
}

}  // namespace pimoe
