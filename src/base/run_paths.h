#pragma once

#include <filesystem>
#include <utility>

namespace pimoe {

/// Where everything in a run folder lies, for those who write it, read it, or look before a run begins: each name is written here alone.
/// docs/run_folder.md draws the folder and says what each file is.
class RunPaths {
 public:
  /// @param folder  run.directory
  explicit RunPaths(std::filesystem::path folder) : folder_(std::move(folder)) {}

  std::filesystem::path config() const { return folder_ / "config.yaml"; }
  std::filesystem::path lock() const { return folder_ / "lock"; }
  std::filesystem::path metrics() const { return folder_ / "metrics.jsonl"; }
  std::filesystem::path undone_metrics() const { return folder_ / "metrics.rolled_back.jsonl"; }
  std::filesystem::path events() const { return folder_ / "events.jsonl"; }
  std::filesystem::path alerts() const { return folder_ / "alerts.jsonl"; }
  std::filesystem::path alerts_firing() const { return folder_ / "alerts.json"; }
  std::filesystem::path alerts_unsent() const { return folder_ / "alerts.unsent.jsonl"; }
  std::filesystem::path report() const { return folder_ / "report.html"; }

  // Folders.
  std::filesystem::path checkpoints() const { return folder_ / "checkpoints"; }
  std::filesystem::path tensorboard() const { return folder_ / "tensorboard"; }
  std::filesystem::path routing() const { return folder_ / "routing"; }
  std::filesystem::path profile() const { return folder_ / "profile"; }
  std::filesystem::path log() const { return folder_ / "log"; }
  std::filesystem::path hang() const { return folder_ / "hang"; }
  std::filesystem::path bench() const { return folder_ / ".pimoe-bench"; }

 private:
  std::filesystem::path folder_;
};

}  // namespace pimoe
