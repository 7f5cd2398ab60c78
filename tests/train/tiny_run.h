#pragma once

/// A training run small enough for float64 and hundreds of layouts, on a corpus of its own.

#include "base/file_io.h"
#include "base/text.h"
#include "data/token_file.h"
#include "support/ranks.h"
#include "train/trainer.h"

#include <unistd.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <random>
#include <string>
#include <vector>

namespace pimoe {

/// A folder that every rank of the job sees, removed at the end by the rank that made it. Collective over the world.
class SharedFolder {
 public:
  SharedFolder() : world_(test_session().world()) {
    path_ = world_->broadcast_text((std::filesystem::temp_directory_path() / ("pimoe-train-" + std::to_string(getpid()))).string(), 0);
    if (world_->rank() == 0) {
      std::filesystem::remove_all(path_);
      std::filesystem::create_directories(path_);
      write_corpus(path_ / "corpus", 900);
      write_corpus(path_ / "validation", 100);
      write_corpus(path_ / "repeats", 900, /*least=*/0);
    }
    world_->patient_barrier();
  }
  ~SharedFolder() {
    world_->patient_barrier();
    if (world_->rank() == 0) std::filesystem::remove_all(path_);
  }
  SharedFolder(const SharedFolder&) = delete;
  SharedFolder& operator=(const SharedFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  /// Ids below 23 with something to learn: each is the last plus `least` or one or two more.
  static void write_corpus(const std::filesystem::path& prefix, int documents, uint32_t least = 1) {
    TokenFileWriter writer(prefix, 23);
    std::mt19937 random(17);
    for (int document = 0; document < documents; ++document) {
      std::vector<int32_t> ids(5 + random() % 20);
      int32_t id = static_cast<int32_t>(random() % 23);
      for (int32_t& each : ids) each = id = static_cast<int32_t>((static_cast<uint32_t>(id) + least + random() % 3) % 23);
      writer.add(ids);
      writer.end_document();
    }
    writer.finish();
  }

  std::unique_ptr<HostCommunicator> world_;
  std::filesystem::path path_;
};

inline TrainConfig tiny_config(const SharedFolder& folder, const std::string& run) {
  TrainConfig config;
  config.run.directory = folder.path() / run;
  config.mesh.device = DeviceChoice::kCpu;
  config.data.train = (folder.path() / "corpus").string();
  config.model.layers = 2;
  config.model.width = 16;
  config.model.heads = 2;
  config.model.kv_heads = 1;
  config.model.sequence_length = 8;
  config.model.vocabulary = 23;
  config.model.feed_forward_width = 12;
  config.model.initial_deviation = 0.1;
  config.model.moe.experts = 8;
  config.model.moe.choices = 2;
  config.model.moe.expert_width = 12;
  config.train.steps = 30;
  config.train.global_batch = 7;  // does not divide evenly among 2, 3 or 4 ranks
  config.train.precision = Precision::kFloat64;
  config.optimizer.warmup_steps = 5;
  config.optimizer.learning_rate = 3e-3;
  config.checkpoint.every_steps = 0;
  config.checkpoint.resume = "none";
  return config;
}

/// The records of a metrics file.
inline std::vector<nlohmann::json> records_in(const std::filesystem::path& file) {
  std::vector<nlohmann::json> records;
  for (const std::string& line : split(read_file(file), '\n')) {
    if (!line.empty()) records.push_back(nlohmann::json::parse(line));
  }
  return records;
}

/// Those of a run so far, one of each step that it logged.
inline std::vector<nlohmann::json> records_of(const TrainConfig& config) { return records_in(config.run.directory / "metrics.jsonl"); }

/// The largest micro-batch of a rank that gives every layout two micro-steps for a batch of 7.
inline int64_t micro_batch_for_two_steps(int ranks) { return (7 + 2 * ranks - 1) / (2 * ranks); }

}  // namespace pimoe
