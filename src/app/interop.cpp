#include "app/interop.h"

#include "app/number_checks.h"
#include "app/print_json.h"
#include "app/run_owner.h"
#include "base/errors.h"
#include "base/file_io.h"
#include "base/strict_json.h"
#include "base/text.h"
#include "checkpoint/checkpoint_store.h"
#include "checkpoint/local_save.h"
#include "checkpoint/step_folders.h"
#include "checkpoint/training_state.h"
#include "data/tokenizer.h"
#include "interop/hf_export.h"
#include "interop/hf_import.h"
#include "train/train_config.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <iostream>
#include <memory>
#include <optional>
#include <vector>

namespace pimoe {
namespace {

namespace fs = std::filesystem;

constexpr double kFineTuningRate = 1e-5;
constexpr uint64_t kLargestCompanionBytes = 1 << 30;
constexpr const char* kCompanions = "hf";

struct ImportOptions {
  fs::path source;
  fs::path output;
  int64_t sequence_length = 0;
  std::string upcycle;
  bool json = false;
};

struct ExportOptions {
  fs::path path;
  fs::path output;
  fs::path like;
  std::string dtype;
  int64_t shard_bytes = HfExportOptions{}.shard_bytes;
  bool json = false;
};

/// "a/b" of "a/b/"
fs::path without_slash(const fs::path& path) { return (path / "").lexically_normal().parent_path(); }

void require_model_folder(const fs::path& path) {
  if (!is_there(path)) throw DataError(concat("there is no ", path.string(), ": a Hugging Face model is a folder with config.json"));
  if (!is_there(path / "config.json")) throw DataError(concat(path.string(), " has no config.json: it is no Hugging Face model"));
}

/// A folder that is made under another name, and has its own once it is whole: nothing of it is left where that fails.
class NewFolder {
 public:
  /// @throws UsageError where there is something at `folder`, but an empty folder
  explicit NewFolder(const fs::path& folder) : folder_(without_slash(folder)), temporary_(fs::path(folder_) += ".unfinished") {
    if (is_there(folder_) && !(fs::is_directory(folder_) && fs::is_empty(folder_))) {
      throw UsageError(concat("--output (", folder_.string(), ") must not be there yet, or be an empty folder"));
    }
    make_empty_folder(temporary_);
  }
  ~NewFolder() {
    std::error_code ignored;
    if (!temporary_.empty()) fs::remove_all(temporary_, ignored);
  }
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;

  const fs::path& path() const { return temporary_; }
  void publish() {
    rename_durably(temporary_, folder_);  // replaces an empty folder
    temporary_.clear();
  }

 private:
  fs::path folder_;
  fs::path temporary_;
};

Precision precision_of(at::ScalarType dtype) {
  switch (dtype) {
    case at::kDouble: return Precision::kFloat64;
    case at::kHalf: return Precision::kFloat16;
    case at::kBFloat16: return Precision::kBfloat16;
    default: return Precision::kFloat32;
  }
}

/// A run that goes on from the imported weights; all else is a default, or what suits a model that has learned already.
TrainConfig config_of(const HfImport& imported, const fs::path& output) {
  TrainConfig config;
  config.run.directory = output;
  config.model = imported.model();
  config.train.precision = precision_of(imported.dtype());
  config.train.micro_batch = 0;
  config.optimizer.learning_rate = kFineTuningRate;
  return config;
}

/// @returns whether a tokenizer's file is one that PiMoE reads, and the model's; says why where it is not
bool is_our_tokenizer(const fs::path& file, const ModelConfig& model, Logger& log) try {
  const Tokenizer tokenizer(file);
  if (tokenizer.vocabulary() <= model.vocabulary) return true;
  log.warning(concat(file.filename().string(), " has more tokens than the model, and is carried along alone"));
  return false;
} catch (const DataError& error) {  // the contract: some families' files are of other formats
  log.warning(concat(file.filename().string(), " is carried along, and PiMoE does not read it: ", error.what()));
  return false;
}

/// @returns the name of the carried file that the run's data.tokenizer is: transformers too takes tokenizer.json before tokenizer.model; "" for none
std::string tokenizer_among(const std::vector<std::string>& carried, const fs::path& folder, const ModelConfig& model, Logger& log) {
  for (const char* name : {"tokenizer.json", "tokenizer.model"}) {
    const bool is_there = std::find(carried.begin(), carried.end(), name) != carried.end();
    if (is_there && is_our_tokenizer(folder / name, model, log)) return name;
  }
  return "";
}

ExitCode import_model(const ImportOptions& options, Logger& log) {
  const fs::path output = without_slash(options.output);
  require_model_folder(options.source);
  const std::optional<Upcycling> upcycling = options.upcycle.empty() ? std::nullopt : std::optional(parse_upcycling(options.upcycle));
  require_no_other_run(output, output, /*run=*/"");
  const HfImport imported(options.source, options.sequence_length, upcycling);
  const HfFamilyTraits& traits = traits_of(imported.hf().family);
  log.info(concat(options.source.string(), ": ", traits.architecture, ", ", grouped(imported.parameters()), " parameters in ",
                  counted(static_cast<int64_t>(imported.weights().files()), "file"), ", ",
                  human_bytes(static_cast<double>(imported.weights().bytes()))));
  if (upcycling) {
    const MoeConfig& moe = imported.model().moe;
    log.info(concat("upcycled: ", counted(imported.model().moe_layers(), "layer"), " with ", moe.experts, " experts of width ",
                    moe.expert_width, ", of which ", moe.choices, " serve each token"));
  }
  for (const std::string& remark : imported.remarks()) log.info(remark);

  NewFolder folder(output);
  fs::create_directories(folder.path() / kCompanions);
  TrainConfig config = config_of(imported, output);
  for (const std::string& name : imported.companions()) {
    std::string content = read_regular_file(options.source / name, kLargestCompanionBytes);
    if (upcycling && name == "config.json") content = config_of_any_family(parse_strict_json(content, name)).dump(2) + "\n";
    write_durably(folder.path() / kCompanions / name, content.data(), content.size());
  }
  const std::string tokenizer = tokenizer_among(imported.companions(), folder.path() / kCompanions, config.model, log);
  if (!tokenizer.empty()) config.data.tokenizer = output / kCompanions / tokenizer;
  sync_folder(folder.path() / kCompanions);
  const std::string yaml = to_yaml(config);
  parse_train_config(yaml, (output / "config.yaml").string());  // it is read again by everything that follows
  const std::string step = step_name(0);
  imported.write(folder.path() / "checkpoints" / step, yaml, static_cast<uint64_t>(config.run.seed), log);
  write_durably(folder.path() / "config.yaml", yaml.data(), yaml.size());
  folder.publish();

  const fs::path checkpoint = output / "checkpoints" / step;
  if (options.json) {
    print_json({{"path", checkpoint.string()},
                {"config", (output / "config.yaml").string()},
                {"family", traits.model_type},
                {"parameters", imported.parameters()},
                {"precision", dtype_name(imported.dtype())}});
  } else {
    std::cout << checkpoint.string() << ": " << traits.architecture << ", " << grouped(imported.parameters()) << " parameters, "
              << dtype_name(imported.dtype()) << "\n"
              << (output / "config.yaml").string() << ": to train on, with data.train=PREFIX\n";
  }
  return ExitCode::kDone;
}

/// What the run computed in; where its configuration does not say, as many bytes as its checkpoint's proof says.
at::ScalarType trained_dtype(const TrainConfig& config, const Manifest& manifest, Logger& log) {
  switch (config.train.precision) {
    case Precision::kFloat64: log.warning("train.precision is float64: exported in float32, which rounds"); return at::kFloat;
    case Precision::kFloat32: return at::kFloat;
    case Precision::kFloat16: return at::kHalf;
    case Precision::kBfloat16: return at::kBFloat16;
    case Precision::kAuto: break;
  }
  const auto bytes = manifest.counters.find(state_counter::kProofBytes);
  return bytes != manifest.counters.end() && bytes->second == 2 ? at::kBFloat16 : at::kFloat;
}

/// The origin's files: RUN/hf of RUN/checkpoints/step-N, or of the run that this one went on from.
fs::path companions_of(const fs::path& checkpoint, const TrainConfig& config) {
  const fs::path own = fs::weakly_canonical(checkpoint);
  std::vector<fs::path> runs = {own.parent_path().parent_path()};
  if (const std::string& resumed = config.checkpoint.resume; resumed != "auto" && resumed != "none") {
    runs.emplace_back(resumed);
    runs.push_back(fs::weakly_canonical(resumed).parent_path().parent_path());
  }
  for (const fs::path& run : runs) {
    std::error_code ignored;
    if (fs::is_directory(run / kCompanions, ignored)) return run / kCompanions;
  }
  return {};
}

ExitCode export_model(const ExportOptions& options, Logger& log) {
  log.info(concat("verifying ", options.path.string()));
  const fs::path checkpoint = find_checkpoint(options.path);
  const Manifest manifest = read_manifest(checkpoint);
  const TrainConfig config = parse_train_config(manifest.config, (checkpoint / "manifest.json").string());
  HfExportOptions how;
  how.shard_bytes = options.shard_bytes;
  how.dtype = options.dtype == "bfloat16"  ? at::kBFloat16
              : options.dtype == "float32" ? at::kFloat
              : options.dtype == "float16" ? at::kHalf
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
    std::cout << options.output.string() << ": " << traits.architecture << ", " << grouped(facts.parameters) << " parameters, "
              << dtype_name(how.dtype) << "; " << counted(static_cast<int64_t>(facts.files.size()), "file") << "\n";
  }
  return ExitCode::kDone;
}

CLI::Validator a_name() {
  return {[](const std::string& text) { return text.empty() ? std::string("must not be empty") : std::string(); }, ""};
}

}  // namespace

void add_import_command(CLI::App& app, AppContext& context) {
  auto options = std::make_shared<ImportOptions>();
  CLI::App* command = app.add_subcommand(
      "import", "Makes a run of a Hugging Face model: DeepSeek-V2 and -V3, Llama, Mixtral, OLMoE, Qwen2, Qwen2-MoE, Qwen3, Qwen3-MoE");
  command->add_option("source", options->source, "folder with config.json and safetensors files")->required()->type_name("HF_DIRECTORY");
  command->add_option("--output", options->output, "run folder to make: config.yaml, checkpoints/step-00000000, hf/ (tokenizer and others)")
      ->required()
      ->type_name("PATH")
      ->check(a_name());
  command->add_option("--sequence-length", options->sequence_length, "model.sequence_length; without it max_position_embeddings")
      ->check(whole_number_in(1, 1 << 24));
  command
      ->add_option(
          "--upcycle", options->upcycle,
          "makes experts of a dense model: experts=N copies of each feed-forward network, choices=K of them for a token, split=G experts "
          "of each copy (1), dense_layers=N in front (0), noise=X (0)")
      ->type_name("KEY=VALUE,...")
      ->check(a_name());
  command->add_flag("--json", options->json, "print JSON");
  command->footer(
      "Example:\n  pimoe import Qwen3-30B-A3B --output runs/qwen --sequence-length 4096\n"
      "  mpirun -n 8 pimoe train runs/qwen/config.yaml data.train=data/mine train.steps=1000\n"
      "  pimoe import Llama-3.2-1B --output runs/upcycled --sequence-length 4096 --upcycle experts=8,choices=2");
  command->callback([options, &context] { context.action = [options, &context] { return import_model(*options, context.log); }; });
}

void add_export_command(CLI::App& app, AppContext& context) {
  auto options = std::make_shared<ExportOptions>();
  CLI::App* command = app.add_subcommand("export", "Writes a checkpoint as a Hugging Face model");
  command->add_option("path", options->path, "a step-* folder, or a run folder (its newest good checkpoint)")
      ->required()
      ->type_name("PATH");
  command->add_option("--output", options->output, "folder to make")->required()->type_name("HF_DIRECTORY")->check(a_name());
  command->add_option("--dtype", options->dtype, "of the weights: bfloat16, float32 or float16; without it what the run trained in")
      ->check(CLI::IsMember({"bfloat16", "float32", "float16"}));
  command->add_option("--like", options->like, "folder whose tokenizer, ids and other keys of config.json are taken; without it RUN/hf")
      ->type_name("HF_DIRECTORY");
  command->add_option("--shard-bytes", options->shard_bytes, "of one file at most")
      ->check(whole_number_in(1, int64_t{1} << 50))
      ->capture_default_str();
  command->add_flag("--json", options->json, "print JSON");
  command->footer("Example:\n  pimoe export runs/qwen --output Qwen3-30B-A3B-mine --dtype bfloat16");
  command->callback([options, &context] { context.action = [options, &context] { return export_model(*options, context.log); }; });
}

}  // namespace pimoe
