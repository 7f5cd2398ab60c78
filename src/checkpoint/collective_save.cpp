#include "checkpoint/collective_save.h"

#include "base/digest.h"
#include "base/errors.h"
#include "base/file_io.h"
#include "base/progress.h"
#include "base/text.h"
#include "checkpoint/local_save.h"
#include "checkpoint/piece_check.h"
#include "checkpoint/save_size.h"
#include "checkpoint/shard_file.h"
#include "checkpoint/shard_plan.h"
#include "checkpoint/step_folders.h"
#include "checkpoint/trouble.h"

#include <ATen/ops/tensor.h>

#include <chrono>
#include <random>
#include <thread>
#include <utility>

namespace pimoe {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTokenFile = "saving.token";
constexpr auto kTokenPatience = std::chrono::seconds(5);  // network file systems cache that a folder does not exist

int64_t bytes_of(const StoredPiece& stored) { return stored.piece.numel() * element_bytes(stored.type); }

}  // namespace

CollectiveSave::CollectiveSave(fs::path folder, const Snapshot& snapshot, const HostCommunicator& ranks, int64_t expert_parallel,
                               int64_t part_bytes, Fill fill)
    : folder_(std::move(folder)), snapshot_(snapshot), ranks_(ranks), part_bytes_(part_bytes), fill_(std::move(fill)) {
  manifest_.step = snapshot.step;
  manifest_.ranks = ranks.size();
  manifest_.expert_parallel = expert_parallel;
  manifest_.config = snapshot.config;
  manifest_.numbers = snapshot.numbers;
  manifest_.counters = snapshot.counters;
}

void CollectiveSave::run() try {
  plan();
  planned_ = true;
  prepare();
  write();
  commit();
} catch (const CheckpointError& error) {
  const std::string lost = loss_of_folder();
  std::error_code failed;
  {
    const PatientOperation on_files;
    // What cannot be removed now is swept at the next start.
    if (ranks_.rank() == 0 && !temporary_.empty()) fs::remove_all(temporary_, failed);
  }
  ranks_.patient_barrier();  // a retry must not meet the removal
  throw SaveError(concat(step_name(snapshot_.step), " was not saved: ", lost.empty() ? error.what() : lost), /*may_pass=*/planned_);
}

std::string CollectiveSave::loss_of_folder() const {
  std::error_code unknown;
  const auto is_gone = [&](const fs::path& path) { return !fs::exists(path, unknown) && !unknown; };
  std::string lost;
  if (ranks_.rank() == 0 && !temporary_.empty()) {
    if (is_gone(temporary_) || (has_token_ && is_gone(temporary_ / kTokenFile))) {
      lost = concat(temporary_.string(), ", or what was in it, was removed while this checkpoint was written into it");
    }
  }
  return ranks_.agree(lost);
}

void CollectiveSave::agree(const std::string& trouble) const {
  ranks_.patient_barrier();
  if (const std::string agreed = ranks_.agree(trouble); !agreed.empty()) throw CheckpointError(agreed);
}

void CollectiveSave::plan() {
  std::vector<StatePiece> kept;
  std::string listing;
  std::string common;
  agree(trouble_of([&] {
    if (snapshot_.step < 0) throw CheckpointError(concat("step (", snapshot_.step, ") must be at least 0"));
    kept = pieces_to_store(snapshot_.pieces);
    listing = pieces_to_json(list_pieces(kept));
    common = to_json(manifest_);
  }));
  const std::vector<std::string> commons = ranks_.all_gather_text(sha256(common.data(), common.size()));
  agree(commons[0] == commons[static_cast<size_t>(ranks_.rank())]
            ? ""
            : "its step, numbers, counters or config are not those of rank 0, and a checkpoint has one of each");

  std::vector<std::vector<StoredPiece>> by_rank;
  for (const std::string& text : ranks_.all_gather_text(listing)) by_rank.push_back(parse_pieces(text));
  const auto shares = share_out(by_rank);
  std::vector<StoredPiece> all;
  for (size_t rank = 0; rank < by_rank.size(); ++rank) {
    for (const size_t index : shares[rank]) {
      all.push_back(by_rank[rank][index]);
      total_bytes_ += bytes_of(all.back());
    }
  }
  // Before a byte is written: a checkpoint that lacks one rank's experts would be found out on the day that it is needed.
  if (const std::string gap = coverage_trouble(all); !gap.empty()) throw CheckpointError(gap);

  std::vector<StatePiece> mine;
  for (const size_t index : shares[static_cast<size_t>(ranks_.rank())]) mine.push_back(std::move(kept[index]));
  parts_ = plan_parts(mine, part_bytes_);
  at::Tensor needed = at::tensor({foretold_bytes(parts_, ranks_.rank(), manifest_)}, at::kLong);
  ranks_.all_reduce(needed, ReduceOp::kSum);
  needed_bytes_ = needed.item<int64_t>();
}

void CollectiveSave::prepare() {
  const std::string token = concat(std::random_device()(), "-", std::random_device()());
  agree(trouble_of([&] {
    if (ranks_.rank() != 0) return;
    remake_own_folder();
    temporary_ = make_temporary(folder_ / step_name(snapshot_.step));  // first: what a killed save left takes space
    check_free_space();
    write_durably(temporary_ / kTokenFile, token.data(), token.size());
  }));
  const std::string expected = ranks_.broadcast_text(token, 0);
  temporary_ = folder_ / ranks_.broadcast_text(temporary_.filename().string(), 0);
  has_token_ = true;
  agree(trouble_of([&] { wait_for_token(expected); }));
}

void CollectiveSave::remake_own_folder() const {
  std::error_code failed;
  fs::create_directory(folder_, failed);
  if (failed) throw IoError(concat("cannot make ", folder_.string(), ": ", failed.message()), failed.value());
}

void CollectiveSave::check_free_space() const {
  std::error_code unknown;
  const fs::space_info space = fs::space(folder_, unknown);
  if (unknown || space.available >= static_cast<uintmax_t>(needed_bytes_)) return;
  throw CheckpointError(concat("needs ", human_bytes(static_cast<double>(needed_bytes_)), ", and ", folder_.string(), " has ",
                               human_bytes(static_cast<double>(space.available)), " free"));
}

void CollectiveSave::wait_for_token(const std::string& token) const {
  const auto deadline = std::chrono::steady_clock::now() + kTokenPatience;
  while (true) {
    try {
      if (read_file(temporary_ / kTokenFile, token.size()) == token) return;
    } catch (const IoError&) {  // not there yet
    }
    if (std::chrono::steady_clock::now() > deadline) {
      throw CheckpointError(
          concat("does not see what rank 0 wrote into ", temporary_.string(), ": the checkpoint folder must be shared by all nodes"));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

void CollectiveSave::write() {
  has_token_ = false;
  bool is_whole = false;
  const std::string trouble = trouble_of([&] {
    size_t part = 0;
    ShardWriter writer(temporary_, manifest_);
    for (std::vector<StatePiece>& pieces : parts_) {
      if (part > 0 && !fs::exists(temporary_ / kTokenFile)) return;  // another rank failed, and says so below
      if (fill_) fill_(pieces);
      writer.add(shard_name(ranks_.rank(), ranks_.size(), part++), pieces);
      if (fill_) pieces.clear();  // or all parts would stay in memory to the end
    }
    writer.finish();
    is_whole = true;
  });
  if (!trouble.empty()) {
    const PatientOperation on_a_file;
    std::error_code ignored;
    fs::remove(temporary_ / kTokenFile, ignored);
  }
  agree(trouble);
  agree(is_whole ? "" : concat((temporary_ / kTokenFile).string(), " was removed while this checkpoint was written"));

  const std::vector<std::string> parts = ranks_.all_gather_text(to_json(manifest_));
  agree(trouble_of([&] {
    if (ranks_.rank() != 0) return;
    manifest_.files.clear();
    manifest_.pieces.clear();
    for (const std::string& text : parts) {
      const Manifest part = parse_manifest(text, "a rank's part of the manifest");
      manifest_.files.insert(manifest_.files.end(), part.files.begin(), part.files.end());
      manifest_.pieces.insert(manifest_.pieces.end(), part.pieces.begin(), part.pieces.end());
    }
  }));
}

void CollectiveSave::commit() {
  agree(trouble_of([&] {
    if (ranks_.rank() != 0) return;
    fs::remove(temporary_ / kTokenFile);
    commit_checkpoint(temporary_, folder_ / step_name(snapshot_.step), manifest_);
  }));
}

}  // namespace pimoe
