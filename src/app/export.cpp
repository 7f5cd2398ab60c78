#include "app/export.h"

#include "app/checkpoint_option.h"
#include "app/new_folder.h"
#include "app/number_checks.h"
#include "app/pretrained.h"
#include "app/print_json.h"
#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"
#include "base/utf8.h"
#include "checkpoint/checkpoint_store.h"
#include "checkpoint/training_state.h"
#include "data/tokenizer.h"
#include "interop/hf_export.h"
#include "train/train_config.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <iostream>
#include <memory>
#include <vector>

namespace pimoe {
namespace {

namespace fs = std::filesystem;

struct ExportOptions {
  fs::path path;
  fs::path output;
  fs::path like;
  std::string dtype;
  int64_t shard_bytes = HfExportOptions{}.shard_bytes;
  bool json = false;
};

void require_model_folder(const fs::path& path) {
  if (!is_there(path)) throw DataError(concat("there is no ", path.string(), ": a Hugging Face model is a folder with config.json"));
  if (!is_there(path / "config.json")) throw DataError(concat(path.string(), " has no config.json: it is no Hugging Face model"));
}

/// What the run computed in; where its configuration does not say, as many bytes as its checkpoint's proof says.
at::ScalarType trained_dtype(const TrainConfig& config, const Manifest& manifest, Logger& log) {
  switch (config.train.precision) {
    case Precision::kFloat64:
      log.warning("train.precision is float64: exported in float32, which rounds; --dtype float64 does not");
      return at::kFloat;
    case Precision::kFloat32: return at::kFloat;
    case Precision::kFloat16: return at::kHalf;
    case Precision::kBfloat16: return at::kBFloat16;
    case Precision::kAuto: break;
  }
  const auto bytes = manifest.counters.find(state_counter::kProofBytes);
  return bytes != manifest.counters.end() && bytes->second == 2 ? at::kBFloat16 : at::kFloat;
}

ExitCode export_model(const ExportOptions& options, Logger& log) {
  log.info(concat("verifying ", options.path.string()));
  const fs::path checkpoint = find_checkpoint(options.path);
  const Manifest manifest = read_manifest(checkpoint);
  const TrainConfig config = parse_train_config(manifest.config, (checkpoint / "manifest.json").string());
  if (config.model.quantization.exists()) {
    throw ConfigError(concat(checkpoint.string(), " is quantized (model.quantization.kind ", config.model.quantization.word(),
                             "): Hugging Face's models have no such weights; export the checkpoint that it was made of"));
  }
  HfExportOptions how;
  how.shard_bytes = options.shard_bytes;
  how.dtype = options.dtype == "bfloat16"  ? at::kBFloat16
              : options.dtype == "float32" ? at::kFloat
              : options.dtype == "float16" ? at::kHalf
              : options.dtype == "float64" ? at::kDouble
                                           : trained_dtype(config, manifest, log);
  if (!options.like.empty()) require_model_folder(options.like);
  how.companions = options.like.empty() ? companions_of(checkpoint, config) : options.like;
  if (const fs::path& model = config.data.tokenizer; !model.empty()) {
    if (std::error_code ignored; fs::is_regular_file(model, ignored)) {
      how.tokenizer = model;
      how.end_of_document = Tokenizer(model).end_of_document();
    } else {
      log.warning(concat("data.tokenizer (", model.string(), ") is no file any more, and is not exported"));
    }
  }
  for (const std::string& doubt : doubts_about_export(config.model)) log.warning(doubt);
  log.info(concat(checkpoint.string(), ": step ", manifest.step, ", into ", dtype_name(how.dtype),
                  how.companions.empty() ? "" : concat("; tokenizer and ids of ", how.companions.string())));
  NewFolder folder(options.output);
  const HfExportFacts facts = export_to_hf(checkpoint, config.model, folder.path(), how, log);
  folder.publish();

  const HfFamilyTraits& traits = traits_of(facts.family);
  if (options.json) {
    print_json({{"path", options.output.string()},
                {"checkpoint", checkpoint.string()},
                {"family", traits.model_type},
                {"parameters", facts.parameters},
                {"dtype", dtype_name(how.dtype)},
                {"bytes", facts.bytes},
                {"files", facts.files}});
  } else {
    std::cout << printable(options.output.string()) << ": " << traits.architecture << ", " << grouped(facts.parameters) << " parameters, "
              << dtype_name(how.dtype) << "; " << counted(static_cast<int64_t>(facts.files.size()), "file") << "\n";
  }
  return ExitCode::kDone;
}

}  // namespace

void add_export_command(CLI::App& app, AppContext& context) {
  auto options = std::make_shared<ExportOptions>();
  CLI::App* command = app.add_subcommand("export", "Write a checkpoint as a Hugging Face model");
  add_checkpoint_option(*command, "path,--checkpoint", options->path);
  command->add_option("--output", options->output, "folder to make")->required()->type_name("HF_DIRECTORY")->check(not_empty());
  command
      ->add_option("--dtype", options->dtype, "of the weights: bfloat16, float32, float16 or float64; without it what the run trained in")
      ->check(CLI::IsMember({"bfloat16", "float32", "float16", "float64"}));
  command->add_option("--like", options->like, "folder whose tokenizer, ids and other keys of config.json are taken; without it RUN/hf")
      ->type_name("HF_DIRECTORY");
  command->add_option("--shard-bytes", options->shard_bytes, "of one file at most: 5000000000, 5GB, 4GiB")
      ->transform(size_in(1, int64_t{1} << 50))
      ->type_name("SIZE")
      ->capture_default_str();
  command->add_flag("--json", options->json, "print JSON");
  command->footer("Example:\n  pimoe export runs/qwen --output Qwen3-30B-A3B-mine --dtype bfloat16");
  command->callback([options, &context] { context.action = [options, &context] { return export_model(*options, context.log); }; });
}

}  // namespace pimoe
