#include "app/checkpoint.h"

#include "app/checkpoint_option.h"
#include "app/new_folder.h"
#include "app/number_checks.h"
#include "app/print_json.h"
#include "app/run_owner.h"
#include "base/file_io.h"
#include "base/text.h"
#include "base/utf8.h"
#include "base/work_progress.h"
#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/checkpoint_store.h"
#include "checkpoint/comparison.h"
#include "checkpoint/reshard.h"
#include "checkpoint/step_folders.h"
#include "checkpoint/training_state.h"
#include "checkpoint/verification.h"

#include <ATen/core/Tensor.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <fstream>
#include <iomanip>
#include <iostream>
#include <memory>
#include <optional>

namespace pimoe {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct Options {
  fs::path path;
  fs::path second;
  fs::path output;
  std::string tensor;
  ReshardTarget target;
  bool quick = false;
  bool json = false;
};

/// What list knows about one checkpoint.
struct Row {
  int64_t step = 0;
  std::string path;
  std::string trouble;
  uint64_t bytes = 0;
  Manifest manifest;

  bool good() const { return trouble.empty(); }
};

Row describe(const StepFolder& step, const Inspection& inspected) {
  Row row{.step = step.step, .path = step.path.string(), .trouble = inspected.trouble, .bytes = 0, .manifest = inspected.manifest};
  for (const StoredFile& file : row.manifest.files) row.bytes += file.bytes;
  return row;
}

void print_rows(const std::vector<Row>& rows) {
  std::cout << "      step  good        size  ranks  expert-parallel     tokens seen  path\n";
  for (const Row& row : rows) {
    std::cout << std::setw(10) << row.step;
    if (row.good()) {
      const auto tokens = row.manifest.counters.find(state_counter::kTokensSeen);
      std::cout << "  yes " << std::setw(12) << human_bytes(static_cast<double>(row.bytes)) << std::setw(7) << row.manifest.ranks
                << std::setw(17) << row.manifest.expert_parallel << std::setw(16)
                << (tokens == row.manifest.counters.end() ? "-" : grouped(tokens->second)) << "  " << printable(row.path) << "\n";
    } else {
      std::cout << "  no            -      -                -               -  " << printable(row.path) << "\n            "
                << printable(row.trouble) << "\n";
    }
  }
}

bool is_step_folder(const fs::path& path) {
  if (!is_there(path) || !fs::is_directory(path)) return false;
  const std::string name = without_slash(path).filename().string();
  const bool is_named_so = name.starts_with("step-") && !is_there(path / "checkpoints");
  return is_named_so || is_there(path / "manifest.json");
}

/// Bytes of a checkpoint's files, for a bar; 0 where its manifest does not tell.
int64_t bytes_of(const fs::path& folder) try {
  int64_t bytes = 0;
  for (const StoredFile& file : read_manifest(folder).files) bytes += static_cast<int64_t>(file.bytes);
  return bytes;
} catch (const Error&) {  // who reads the checkpoint says what is wrong with it
  return 0;
}

/// The checkpoint that a path means: of a run folder the newest good one, for which it is read.
fs::path find_checkpoint_with_progress(const fs::path& path, Logger& log) {
  const WorkProgress progress(concat("looking for the newest good checkpoint of ", path.string()), WorkUnit::kBytes, log);
  return find_checkpoint(path);
}

ExitCode list(const Options& options, Logger& log) {
  require_folder(options.path);
  if (is_step_folder(options.path)) {
    throw CheckpointError(concat(options.path.string(),
                                 " is one checkpoint, and list takes the run folder that it is in: `pimoe checkpoint "
                                 "verify` looks at one"));
  }
  const fs::path folder = is_there(options.path / "checkpoints") ? options.path / "checkpoints" : options.path;
  std::vector<Row> rows;
  const std::vector<StepFolder> steps = list_steps(folder);
  int64_t bytes = 0;
  for (const StepFolder& step : steps) bytes += options.quick ? 0 : bytes_of(step.path);
  const WorkProgress progress(concat("reading the checkpoints of ", options.path.string()), WorkUnit::kBytes, log, bytes);
  for (const StepFolder& step : steps) {
    if (const auto inspected = inspect_checkpoint(step.path, /*digests=*/!options.quick)) rows.push_back(describe(step, *inspected));
  }
  if (rows.empty()) log.warning(concat("there are no checkpoints (step-* folders) in ", folder.string()));
  if (!options.json) {
    if (!rows.empty()) print_rows(rows);
    return ExitCode::kDone;
  }
  Json document = Json::array();
  for (const Row& row : rows) {
    Json entry = {{"step", row.step}, {"path", row.path}, {"good", row.good()}};
    if (row.good()) {
      entry.update({{"bytes", row.bytes}, {"ranks", row.manifest.ranks}, {"expert_parallel", row.manifest.expert_parallel}});
    } else {
      entry["reason"] = row.trouble;
    }
    document.push_back(std::move(entry));
  }
  print_json(document);
  return ExitCode::kDone;
}

/// A step folder is what it is, however damaged; only a run folder is searched for its newest good checkpoint. Where it has none, the newest says why.
fs::path folder_to_verify(const fs::path& path, Logger& log) try {
  return is_step_folder(path) ? path : find_checkpoint_with_progress(path, log);
} catch (const CheckpointError&) {
  const std::vector<StepFolder> steps = list_steps(is_there(path / "checkpoints") ? path / "checkpoints" : path);
  if (steps.empty()) throw;
  return steps.back().path;
}

ExitCode verify(const Options& options, Logger& log) {
  require_folder(options.path);
  const fs::path path = folder_to_verify(options.path, log);
  std::string trouble;
  {
    const WorkProgress progress(concat("verifying ", path.string()), WorkUnit::kBytes, log,
                                2 * bytes_of(path));  // files, then what is in them
    trouble = verify_checkpoint(path, /*full=*/true);
  }
  // A run is searched for what can be resumed; that something newer cannot is worth a word.
  for (const StepFolder& step : list_steps(path.parent_path())) {
    if (path != options.path && step.path > path) log.warning(concat(step.path.string(), " is newer, and damaged: verify it by name"));
  }
  if (options.json) print_json({{"path", path.string()}, {"good", trouble.empty()}, {"reason", trouble}});
  if (!trouble.empty()) {
    const std::string where = concat("checkpoint ", path.string(), ": ");
    log.error(trouble.starts_with(where) ? trouble : where + trouble);
    return ExitCode::kCheckSaysNo;
  }
  if (!options.json) {
    const Manifest manifest = read_manifest(path);
    std::cout << printable(path.string()) << " is good: step " << manifest.step << ", " << index_by_tensor(manifest.pieces).size()
              << " tensors in " << manifest.files.size() << " files\n";
  }
  return ExitCode::kDone;
}

bool same_moments(const CheckpointComparison& comparison) {
  return comparison.same_of(state_kind::kFirstMoment) && comparison.same_of(state_kind::kSecondMoment);
}

/// "weights differ, moments the same, other tensors the same; of step, numbers and counters 2 differ"
std::string verdict_of(const CheckpointComparison& comparison) {
  const auto word = [](bool same) { return same ? " the same" : " differ"; };
  return concat("weights", word(comparison.same_of(state_kind::kMaster)), ", moments", word(same_moments(comparison)), ", other tensors",
                word(comparison.same_of(state_kind::kState)), "; step, numbers and counters",
                comparison.state.empty() ? std::string(" the same") : concat(": ", comparison.state.size(), " differ"));
}

/// Tensors first, each with its kind (master: the weights); then what is no tensor, as such.
void print_comparison(const CheckpointComparison& comparison) {
  for (const std::string& name : comparison.only_in_first) std::cout << name << ": only in the first\n";
  for (const std::string& name : comparison.only_in_second) std::cout << name << ": only in the second\n";
  for (const std::string& line : comparison.shapes) std::cout << line << ": shapes differ\n";
  for (const TensorDifference& difference : comparison.values) {
    std::cout << difference.tensor << ": " << grouped(difference.different) << " of " << grouped(difference.elements)
              << " elements differ, at most " << scientific(difference.max_absolute, 3) << " absolute, "
              << scientific(difference.max_relative, 3) << " relative\n";
  }
  for (const std::string& line : comparison.state) std::cout << printable(line) << "\n";
  if (comparison.config_differs) std::cout << "config: differs (does not count)\n";
  std::cout << grouped(comparison.equal_tensors) << " tensors are equal: " << verdict_of(comparison) << "\n";
  if (comparison.same()) std::cout << "the checkpoints are the same\n";
  if (!comparison.same() && comparison.same_tensors())
    std::cout << "the same model and optimizer, at another point of its data or its run\n";
}

CheckpointComparison compare(const fs::path& first, const fs::path& second, Logger& log) {
  const WorkProgress progress(concat("comparing ", first.string(), " and ", second.string()), WorkUnit::kBytes, log,
                              bytes_of(first) + bytes_of(second));
  return compare_checkpoints(first, second);
}

ExitCode diff(const Options& options, Logger& log) {
  const fs::path first = find_checkpoint_with_progress(options.path, log);
  const fs::path second = find_checkpoint_with_progress(options.second, log);
  const CheckpointComparison comparison = compare(first, second, log);
  if (options.json) {
    Json values = Json::array();
    for (const TensorDifference& difference : comparison.values) {
      values.push_back({{"tensor", difference.tensor},
                        {"elements", difference.elements},
                        {"different", difference.different},
                        {"max_absolute", difference.max_absolute},
                        {"max_relative", difference.max_relative}});
    }
    print_json({{"first", first.string()},
                {"second", second.string()},
                {"same", comparison.same()},
                {"same_weights", comparison.same_of(state_kind::kMaster)},
                {"same_moments", same_moments(comparison)},
                {"same_tensors", comparison.same_tensors()},
                {"equal_tensors", comparison.equal_tensors},
                {"state", comparison.state},
                {"config_differs", comparison.config_differs},
                {"only_in_first", comparison.only_in_first},
                {"only_in_second", comparison.only_in_second},
                {"shapes", comparison.shapes},
                {"values", values}});
  } else {
    print_comparison(comparison);
  }
  return comparison.same() ? ExitCode::kDone : ExitCode::kCheckSaysNo;
}

void require_outside_checkpoints(const fs::path& output) {
  for (fs::path folder = fs::weakly_canonical(fs::absolute(output)).parent_path(); folder.has_relative_path();
       folder = folder.parent_path()) {
    if (!step_of(folder.filename().string()) || !is_there(folder / "manifest.json")) continue;
    throw UsageError(
        concat("--output (", output.string(), ") must not be inside a checkpoint (", folder.string(), "): its files stay as they are"));
  }
}

/// What is there already may be replaced if it is what this writes.
void require_hdf5_or_nothing(const fs::path& output) {
  constexpr std::string_view kSignature = "\x89HDF\r\n\x1a\n";
  if (!is_there(output)) return;
  if (!fs::is_regular_file(output)) throw UsageError(concat("--output (", output.string(), ") must be a file"));
  std::ifstream file(output, std::ios::binary);
  std::string begin(kSignature.size(), '\0');
  file.read(begin.data(), static_cast<std::streamsize>(begin.size()));
  if (fs::file_size(output) > 0 && begin != kSignature) {
    throw UsageError(concat("--output (", output.string(), ") is there, and is no HDF5 file: it is not overwritten"));
  }
}

ExitCode extract(const Options& options, Logger& log) {
  const fs::path folder = find_checkpoint_with_progress(options.path, log);
  require_outside_checkpoints(options.output);
  require_hdf5_or_nothing(options.output);
  CheckpointReader reader(folder);
  const std::string name =
      options.tensor.find('/') == std::string::npos ? concat(state_kind::kMaster, "/", options.tensor) : options.tensor;
  const auto tensors = reader.tensors();
  const auto found = tensors.find(name);
  const Box box = Box::whole(found == tensors.end() ? std::vector<int64_t>{} : found->second.shape);
  const WorkProgress progress(concat("reading ", name), WorkUnit::kBytes, log);
  const at::Tensor values = reader.read(name, 0, box.numel());  // an unknown name is refused here, with the nearest one
  Hdf5Writer writer;
  writer.add(name, found->second.type, values.const_data_ptr(), values.numel(), {{"global_shape", box.global}});
  const Hdf5Image image = writer.finish();
  replace_file(options.output, image.data(), image.size());
  if (options.json) {
    print_json({{"path", options.output.string()},
                {"checkpoint", folder.string()},
                {"tensor", name},
                {"shape", box.global},
                {"dtype", element_name(found->second.type)}});
  } else {
    std::cout << printable(options.output.string()) << ": " << name << " " << shape_text(box.global) << ", "
              << element_name(found->second.type) << "\n";
  }
  return ExitCode::kDone;
}

/// Where a checkpoint of `step` goes: the step folder that `output` is, or one in the checkpoints or run folder that it is.
fs::path place_of_step(int64_t step, const fs::path& output) {
  const std::string name = output.filename().string();
  if (name == step_name(step)) return output;
  if (const std::optional<int64_t> named = step_of(name)) {
    throw UsageError(concat("--output (", output.string(), ") names step ", *named, ", and the checkpoint is of step ", step));
  }
  // A run folder of such a name would be taken for a checkpoint (is_step_folder).
  if (name.starts_with("step-")) {
    throw UsageError(concat("--output (", output.string(), ") begins with step-, as a step's folder does, and that of step ", step,
                            " is called ", step_name(step), ": name it so, or name a run folder"));
  }
  return name == "checkpoints" ? output / step_name(step) : output / "checkpoints" / step_name(step);
}

ExitCode reshard(const Options& options, Logger& log) {
  const fs::path from = find_checkpoint_with_progress(options.path, log);
  const int64_t step = read_manifest(from).step;
  require_outside_checkpoints(options.output);
  const fs::path to = place_of_step(step, without_slash(options.output));
  require_no_other_run(options.output, to.parent_path(), run_of(from));
  if (fs::exists(to)) throw UsageError(concat("--output (", to.string(), ") must not exist yet"));
  if (options.target.ranks % options.target.expert_parallel != 0) {
    throw UsageError(concat("--expert-parallel (", options.target.expert_parallel, ") must divide --ranks (", options.target.ranks, ")"));
  }
  int64_t files = 0;
  int64_t bytes = 0;
  const int64_t total = bytes_of(from);
  WorkProgress progress(concat("writing ", to.string()), WorkUnit::kBytes, log);
  reshard_checkpoint(from, to, options.target, [&](const std::string& file, int64_t size) {
    log.info(concat(file, ": ", human_bytes(static_cast<double>(size))));
    ++files;
    bytes += size;
    progress.at(bytes, total);
  });
  if (options.json) {
    print_json({{"path", to.string()},
                {"step", step},
                {"ranks", options.target.ranks},
                {"expert_parallel", options.target.expert_parallel},
                {"files", files},
                {"bytes", bytes}});
  } else {
    std::cout << printable(to.string()) << ": step " << step << " for " << options.target.ranks << " ranks, expert_parallel "
              << options.target.expert_parallel << "; " << files << " files, " << human_bytes(static_cast<double>(bytes)) << "\n";
  }
  return ExitCode::kDone;
}

}  // namespace

void add_checkpoint_command(CLI::App& app, AppContext& context) {
  CLI::App* checkpoint = app.add_subcommand("checkpoint", "List, verify, compare and open checkpoints");
  checkpoint->require_subcommand(1);
  checkpoint->footer(
      "Example:\n  pimoe checkpoint list runs/quickstart\n  pimoe checkpoint verify runs/quickstart/checkpoints/step-00000100");
  auto options = std::make_shared<Options>();

  CLI::App* command = checkpoint->add_subcommand("list", "Show a run's checkpoints: step, whether good, size, layout");
  command->add_option("run", options->path, "run folder")->required()->type_name("RUN");
  command->add_flag("--quick", options->quick, "judge by manifest and file sizes; do not read the files");
  command->add_flag("--json", options->json, "print JSON");
  command->footer("Example:\n  pimoe checkpoint list runs/quickstart --json");
  command->callback([&context, options] { context.action = [&context, options] { return list(*options, context.log); }; });

  command =
      checkpoint->add_subcommand("verify", "Read a checkpoint whole: exit code 0, or 1 with the file, the bytes of it and the tensor");
  add_checkpoint_option(*command, "path", options->path);
  command->add_flag("--json", options->json, "print JSON");
  command->footer("Example:\n  pimoe checkpoint verify runs/quickstart/checkpoints/step-00000100");
  command->callback([&context, options] { context.action = [&context, options] { return verify(*options, context.log); }; });

  command =
      checkpoint->add_subcommand("diff", "Compare two checkpoints tensor by tensor, whatever layouts wrote them: exit code 0 same, 1 not");
  add_checkpoint_option(*command, "first", options->path, "A");
  add_checkpoint_option(*command, "second", options->second, "B");
  command->add_flag("--json", options->json, "print JSON");
  command->footer(
      "Exit code 1 where a tensor, the step, a number or a counter differs (counters tell where a run stands in its data, data.* which "
      "data);\n"
      "the last lines, and same_weights, same_moments, same_tensors of --json, say of which kind. Another configuration does not count.\n"
      "Example:\n  pimoe checkpoint diff runs/a/checkpoints/step-00000100 runs/b/checkpoints/step-00000100");
  command->callback([&context, options] { context.action = [&context, options] { return diff(*options, context.log); }; });

  command = checkpoint->add_subcommand("extract", "Write one whole tensor into an HDF5 file");
  add_checkpoint_option(*command, "path", options->path);
  command
      ->add_option("tensor", options->tensor, "final_norm.weight for the master weights, KIND/NAME for others: exp_avg/final_norm.weight")
      ->required()
      ->type_name("TENSOR");
  command->add_option("--output", options->output, "HDF5 file to write; one that is there is replaced")
      ->required()
      ->type_name("FILE.h5")
      ->check(not_empty());
  command->add_flag("--json", options->json, "print JSON");
  command->footer("Example:\n  pimoe checkpoint extract runs/quickstart layers.0.attention_norm.weight --output norm.h5");
  command->callback([&context, options] { context.action = [&context, options] { return extract(*options, context.log); }; });

  command = checkpoint->add_subcommand("reshard", "Write a checkpoint again as another number of ranks would hold it");
  add_checkpoint_option(*command, "path", options->path);
  command->add_option("--ranks", options->target.ranks, "ranks to write it for")->required()->check(whole_number_in(1, 1 << 20));
  command->add_option("--expert-parallel", options->target.expert_parallel, "ranks that share out the experts, 1 by default")
      ->check(whole_number_in(1, 1 << 20));
  command
      ->add_option("--output", options->output,
                   "run folder, its checkpoints folder, or step-* folder of the same step, which must not be there yet; no other run's")
      ->required()
      ->type_name("PATH")
      ->check(not_empty());
  command->add_flag("--json", options->json, "print JSON");
  command->footer(
      "Training resumes from any layout without this.\nExample:\n  pimoe checkpoint reshard runs/quickstart --ranks 8 "
      "--expert-parallel 4 --output runs/on-eight");
  command->callback([&context, options] { context.action = [&context, options] { return reshard(*options, context.log); }; });
}

}  // namespace pimoe
