#pragma once

/// The pimoe binary as a user meets it: a folder of its own, commands through the shell, exit codes, what was printed.

#include "base/file_io.h"
#include "base/text.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>
#include <nlohmann/json.hpp>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace pimoe {

struct Outcome {
  int code = 0;
  std::string out;
  std::string err;
  double seconds = 0.0;
};

class User : public testing::Test {
 protected:
  User() {
    char name[] = "/tmp/pimoe-user-XXXXXX";
    folder_ = mkdtemp(name);
  }
  ~User() override { std::filesystem::remove_all(folder_); }

  /// Runs a shell command in the user's folder; `pimoe` and `mpirun` are ours.
  Outcome run(const std::string& command) const {
    const auto begun = std::chrono::steady_clock::now();
    const int status = std::system(concat(shell_prefix(), "exec >out.txt 2>err.txt </dev/null; ", command).c_str());
    Outcome outcome;
    outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    outcome.out = read_file(folder_ / "out.txt");
    outcome.err = read_file(folder_ / "err.txt");
    outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
    return outcome;
  }

  /// Starts a command in the background, in a process group of its own. @returns its group
  pid_t start(const std::string& command) const {
    const pid_t child = fork();
    if (child == 0) {
      setpgid(0, 0);
      execl("/bin/bash", "bash", "-c", concat(shell_prefix(), "exec ", command, " >>background.txt 2>&1 </dev/null").c_str(), nullptr);
      _exit(127);
    }
    setpgid(child, child);
    return child;
  }

  static int wait_for(pid_t child) {
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

  /// @returns the processes of ours that work in the user's folder: mpirun's ranks too, each of which is in a group of its own
  std::vector<pid_t> ranks() const {
    const std::filesystem::path binary = std::filesystem::canonical(PIMOE_BINARY);
    std::vector<pid_t> found;
    for (const auto& process : std::filesystem::directory_iterator("/proc")) {
      const std::string number = process.path().filename().string();
      if (number.find_first_not_of("0123456789") != std::string::npos) continue;
      std::error_code gone;  // since, or it is somebody else's
      const auto folder = std::filesystem::read_symlink(process.path() / "cwd", gone);
      if (gone || folder != folder_) continue;
      if (std::filesystem::read_symlink(process.path() / "exe", gone) == binary && !gone) found.push_back(std::stoi(number));
    }
    return found;
  }

  /// Waits until none of them is left. A minute is far more than it takes.
  void wait_for_no_rank() const {
    for (int tries = 0; tries < 1200 && !ranks().empty(); ++tries) std::this_thread::sleep_for(std::chrono::milliseconds(50));
    ASSERT_TRUE(ranks().empty()) << "they go on\n" << read_file(folder_ / "background.txt");
  }

  /// @returns the records of a run's metrics.jsonl, in order; none before it exists, and a line that is still being written is none
  std::vector<nlohmann::json> records(const std::string& run) const {
    std::vector<nlohmann::json> found;
    const auto file = folder_ / run / "metrics.jsonl";
    if (!std::filesystem::exists(file)) return found;
    for (const std::string& line : split(read_file(file), '\n')) {
      nlohmann::json record = nlohmann::json::parse(line, nullptr, false);
      if (record.is_object()) found.push_back(std::move(record));
    }
    return found;
  }

  /// @returns their steps
  std::vector<int64_t> steps(const std::string& run) const {
    std::vector<int64_t> found;
    for (const auto& record : records(run)) found.push_back(record.at("step"));
    return found;
  }

  /// Waits until a run has done `step`. A minute is far more than it takes.
  void wait_for_step(const std::string& run, int64_t step) const {
    for (int tries = 0; tries < 1200; ++tries) {
      const auto done = steps(run);
      if (!done.empty() && done.back() >= step) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    FAIL() << run << " never reached step " << step << "\n" << read_file(folder_ / "background.txt");
  }

  /// A corpus and a configuration of which 60 steps take seconds. The corpus is built once for all tests of the program.
  void prepare() const {
    std::string text;
    for (int line = 0; line < 4000; ++line) text += concat("the ", line % 7, " cats sat on ", line % 11, " mats and ", line % 5, " hats\n");
    write("text/a.txt", text);
    static std::map<std::string, std::string> corpus;  // file -> content
    if (corpus.empty()) {
      const Outcome built = run("pimoe data build --output corpus --vocabulary 300 --validation 0 text");
      ASSERT_EQ(built.code, 0) << built.err;
      for (const char* file : {"corpus.bin", "corpus.idx", "corpus.model"}) corpus[file] = read_file(folder_ / file);
    }
    for (const auto& [file, content] : corpus) write(file, content);
    write("tiny.yaml", R"(run: {directory: runs/tiny}
mesh: {device: cpu}
data: {train: corpus, tokenizer: corpus.model}
model: {layers: 2, width: 32, heads: 2, kv_heads: 1, sequence_length: 16, moe: {experts: 4, choices: 2, expert_width: 32}}
train: {steps: 60, global_batch: 5, micro_batch: 2, precision: float32}
checkpoint: {every_steps: 5}
)");
  }

  void write(const std::string& name, const std::string& content) const {
    std::filesystem::create_directories((folder_ / name).parent_path());
    replace_file(folder_ / name, content);
  }

  /// name -> digest of every tensor's pieces in a checkpoint
  std::map<std::string, std::string> digests(const std::string& checkpoint) const {
    std::map<std::string, std::string> found;
    const auto manifest = nlohmann::json::parse(read_file(folder_ / checkpoint / "manifest.json"));
    const std::function<void(const nlohmann::json&)> walk = [&](const nlohmann::json& node) {
      if (node.is_object() && node.contains("dataset") && node.contains("sha256")) {
        found[concat(node.at("file").get<std::string>(), ":", node.at("dataset").get<std::string>())] = node.at("sha256");
      }
      if (node.is_structured()) {
        for (const auto& child : node) walk(child);
      }
    };
    walk(manifest);
    return found;
  }

  std::filesystem::path folder_;

 private:
  std::string shell_prefix() const {
    return concat("cd '", folder_.string(), "'; pimoe() { ", PIMOE_BINARY, " \"$@\"; }; export PIMOE=", PIMOE_BINARY, " MPIRUN='",
                  PIMOE_MPIRUN, "'; ");
  }
};

}  // namespace pimoe
