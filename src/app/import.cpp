#include "app/import.h"

#include "app/new_folder.h"
#include "app/number_checks.h"
#include "app/pretrained.h"
#include "app/print_json.h"
#include "app/run_owner.h"
#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"
#include "base/utf8.h"
#include "checkpoint/step_folders.h"
#include "interop/hf_checkpoint.h"
#include "interop/hf_companions.h"
#include "parallel/agreement.h"
#include "parallel/mpi_session.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <cstdlib>
#include <iostream>
#include <memory>
#include <optional>

namespace pimoe {
namespace {

namespace fs = std::filesystem;

struct ImportOptions {
  fs::path source;
  std::vector<std::string> overrides;
  fs::path output;
  int64_t sequence_length = 0;
  std::string upcycle;
  bool json = false;
};

Precision precision_of(at::ScalarType dtype) {
  switch (dtype) {
    case at::kDouble: return Precision::kFloat64;
    case at::kHalf: return Precision::kFloat16;
    case at::kBFloat16: return Precision::kBfloat16;
    default: return Precision::kFloat32;
  }
}

/// The only key that an import takes: all others are the run's, and written when it trains. @throws ConfigError
MeshConfig mesh_of(const std::vector<std::string>& overrides) {
  struct Keys {
    struct {
      int64_t expert_parallel = 0;
      void fields(FieldVisitor& visit) {
        visit.integer_or_auto("expert_parallel", expert_parallel, {.at_least = 1, .at_most = 1 << 20}, "ranks that share out the experts");
      }
    } mesh;
  } keys;
  load_fields("", "pimoe import", overrides, [&](FieldVisitor& visit) { visit.nested("mesh", keys.mesh); });
  // The weights go from file to file: no GPU has a part in it.
  return {.expert_parallel = keys.mesh.expert_parallel, .transport = Transport::kMpi, .device = DeviceChoice::kCpu};
}

/// A run that goes on from the imported weights.
TrainConfig config_of(const HfImport& imported, const fs::path& output, int64_t expert_parallel) {
  TrainConfig config = config_for_weights(imported.model());
  config.run.directory = output;
  config.mesh.expert_parallel = expert_parallel;
  config.train.precision = precision_of(imported.dtype());
  return config;
}

void describe(const HfImport& imported, const fs::path& source, Logger& log) {
  log.info(concat(source.string(), ": ", traits_of(imported.hf().family).architecture, ", ", grouped(imported.parameters()),
                  " parameters in ", counted(static_cast<int64_t>(imported.weights().files()), "file"), ", ",
                  human_bytes(static_cast<double>(imported.weights().bytes()))));
  if (imported.model().moe_layers() != imported.hf().model.moe_layers()) {
    const MoeConfig& moe = imported.model().moe;
    log.info(concat("upcycled: ", counted(imported.model().moe_layers(), "layer"), " with ", moe.experts, " experts of width ",
                    moe.expert_width, ", of which ", moe.choices, " serve each token"));
  }
  for (const std::string& remark : imported.remarks()) log.info(remark);
}

/// RUN/hf. @returns the run's configuration, which knows the tokenizer there
std::string carry_along(const ImportOptions& options, const fs::path& output, const NewFolder& folder, TrainConfig config, Logger& log) {
  const fs::path companions = folder.path() / kCompanionFolder;
  fs::create_directories(companions);
  copy_companions(options.source, companions, !options.upcycle.empty());
  const std::string tokenizer = readable_tokenizer_in(companions, config.model, log);
  if (!tokenizer.empty()) config.data.tokenizer = output / kCompanionFolder / tokenizer;
  std::string yaml = to_yaml(config);
  parse_train_config(yaml, (output / "config.yaml").string());  // it is read again by everything that follows
  return yaml;
}

void print_outcome(const ImportOptions& options, const HfImport& imported, const fs::path& output, const RankLayout& layout) {
  const HfFamilyTraits& traits = traits_of(imported.hf().family);
  const fs::path checkpoint = output / "checkpoints" / step_name(0);
  if (options.json) {
    print_json({{"path", checkpoint.string()},
                {"config", (output / "config.yaml").string()},
                {"family", traits.model_type},
                {"parameters", imported.parameters()},
                {"precision", dtype_name(imported.dtype())},
                {"ranks", layout.ranks},
                {"expert_parallel", layout.expert_parallel}});
    return;
  }
  std::cout << printable(checkpoint.string()) << ": " << traits.architecture << ", " << grouped(imported.parameters()) << " parameters, "
            << dtype_name(imported.dtype()) << "\n"
            << printable((output / "config.yaml").string()) << ": to train on, with data.train=PREFIX\n";
}

ExitCode import_alone(const ImportOptions& options, const std::optional<Upcycling>& upcycling, Logger& log) {
  const MeshConfig mesh = mesh_of(options.overrides);
  const fs::path output = without_slash(options.output);
  require_no_other_run(output, output, /*run=*/"");
  const HfImport imported(options.source, options.sequence_length, upcycling);
  choose_expert_parallel(mesh.expert_parallel, imported.model().moe.common_divisor(), 1, 1);
  describe(imported, options.source, log);
  NewFolder folder(output);
  const TrainConfig config = config_of(imported, output, mesh.expert_parallel);
  const std::string yaml = carry_along(options, output, folder, config, log);
  write_imported(imported, folder.path() / "checkpoints" / step_name(0), yaml, static_cast<uint64_t>(config.run.seed), log);
  write_durably(folder.path() / "config.yaml", yaml.data(), yaml.size());
  folder.publish();
  print_outcome(options, imported, output, {});
  return ExitCode::kDone;
}

/// Each rank reads what it writes; rank 0 makes the folder and all else in it. Every step ends in an agreement.
ExitCode import_together(const ImportOptions& options, const std::optional<Upcycling>& upcycling, const MpiSession& session, Logger& log) {
  const fs::path output = without_slash(options.output);
  const std::unique_ptr<HostCommunicator> world = session.world();
  const bool is_first = world->rank() == 0;
  std::optional<HfImport> imported;
  do_together(*world, [&] {
    if (is_first) require_no_other_run(output, output, /*run=*/"");
    imported.emplace(options.source, options.sequence_length, upcycling, HfReader{world->rank(), world->size()});
  });
  const MeshConfig asked = mesh_of(options.overrides);
  const ProcessMesh mesh(asked, session.world(), session.node(), imported->model().moe.common_divisor());
  if (is_first) describe(*imported, options.source, log);
  const TrainConfig config = config_of(*imported, output, asked.expert_parallel);

  std::optional<NewFolder> folder;
  std::string yaml;
  do_together(*world, [&] {
    if (!is_first) return;
    folder.emplace(output);
    yaml = carry_along(options, output, *folder, config, log);
  });
  yaml = world->broadcast_text(yaml, 0);
  const fs::path unfinished = world->broadcast_text(folder ? folder->path().string() : "", 0);
  const RankLayout layout{world->size(), mesh.expert_parallel()};
  write_imported(*imported, unfinished / "checkpoints", yaml, static_cast<uint64_t>(config.run.seed), log, *world, layout.expert_parallel);
  const std::string read = bytes_by_rank(imported->weights().bytes_read(), *world);
  if (is_first) {
    log.info(concat("read of the weights' ", human_bytes(static_cast<double>(imported->weights().bytes())), ": ", read));
  }
  do_together(*world, [&] {
    if (!is_first) return;
    write_durably(folder->path() / "config.yaml", yaml.data(), yaml.size());
    folder->publish();
    print_outcome(options, *imported, output, layout);
  });
  return ExitCode::kDone;
}

ExitCode import_model(const ImportOptions& options, AppContext& context) {
  const std::optional<Upcycling> upcycling = options.upcycle.empty() ? std::nullopt : std::optional(parse_upcycling(options.upcycle));
  if (launched_processes([](const char* name) { return std::getenv(name); }) == 1) return import_alone(options, upcycling, context.log);
  return import_together(options, upcycling, context.mpi(), context.log);
}

}  // namespace

void add_import_command(CLI::App& app, AppContext& context) {
  auto options = std::make_shared<ImportOptions>();
  CLI::App* command = app.add_subcommand(
      "import", "Make a run of a Hugging Face model: DeepSeek-V2 and -V3, Llama, Mixtral, OLMoE, Qwen2, Qwen2-MoE, Qwen3, Qwen3-MoE");
  command->add_option("source", options->source, "folder with config.json and safetensors files")->required()->type_name("HF_DIRECTORY");
  command
      ->add_option("overrides", options->overrides,
                   "mesh.expert_parallel=M: ranks that share out the experts; under mpirun or srun each rank reads and writes its share")
      ->type_name("KEY=VALUE");
  command->add_option("--output", options->output, "run folder to make: config.yaml, checkpoints/step-00000000, hf/ (tokenizer and others)")
      ->required()
      ->type_name("PATH")
      ->check(not_empty());
  command->add_option("--sequence-length", options->sequence_length, "model.sequence_length; without it max_position_embeddings")
      ->check(whole_number_in(1, 1 << 24));
  command
      ->add_option(
          "--upcycle", options->upcycle,
          "makes experts of a dense model: experts=N copies of each feed-forward network, choices=K of them for a token, split=G experts "
          "of each copy (1), dense_layers=N in front (0), noise=X (0)")
      ->type_name("KEY=VALUE,...")
      ->check(not_empty());
  command->add_flag("--json", options->json, "print JSON");
  command->footer(
      "Example:\n  pimoe import Qwen3-30B-A3B --output runs/qwen --sequence-length 4096\n"
      "  mpirun -n 8 pimoe train runs/qwen/config.yaml data.train=data/mine train.steps=1000\n"
      "  mpirun -n 8 pimoe import Qwen3-30B-A3B --output runs/qwen mesh.expert_parallel=8\n"
      "  pimoe import Llama-3.2-1B --output runs/upcycled --sequence-length 4096 --upcycle experts=8,choices=2\n"
      "Without an import, model.initial_weights=HF_DIRECTORY of `pimoe train` begins a run with such weights.");
  command->callback([options, &context] { context.action = [options, &context] { return import_model(*options, context); }; });
}

}  // namespace pimoe
