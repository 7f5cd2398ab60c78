#include "base/errors.h"
#include "checkpoint/checkpoint_store.h"
#include "checkpoint/step_folders.h"
#include "checkpoint/store_on_ranks.h"
#include "checkpoint/tiny_checkpoint.h"
#include "checkpoint/training_state.h"
#include "checkpoint/verification.h"
#include "support/ranks.h"
#include "support/without_privileges.h"

#include <ATen/ops/from_blob.h>
#include <gtest/gtest.h>

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>

#include <cerrno>
#include <filesystem>
#include <optional>
#include <set>
#include <utility>

namespace {
bool no_thread_can_be_had = false;  ///< the next one
}

/// In place of libc's, so that a limit on processes is reached where a test wants that.
extern "C" int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*routine)(void*), void* argument) {
  static const auto of_libc = reinterpret_cast<decltype(&pthread_create)>(dlsym(RTLD_NEXT, "pthread_create"));
  if (std::exchange(no_thread_can_be_had, false)) return EAGAIN;
  return of_libc(thread, attributes, routine, argument);
}

namespace pimoe {
namespace {

namespace fs = std::filesystem;
using Names = std::set<std::string>;

TEST_F(StoreOnRanks, WhatOneLayoutSavesEveryOtherRestores) {
  for (int savers = 1; savers <= world_->size(); ++savers) {
    for (const int64_t expert_parallel : std::set<int64_t>{1, 2, savers}) {
      if (savers % expert_parallel != 0) continue;
      const auto saving = sub_mesh(savers, cpu_mesh(expert_parallel), kExperts);
      const fs::path group = folder_ / std::to_string(world_->rank() / savers);  // each group of ranks saves on its own
      CheckpointConfig config;
      config.part_bytes = 100;
      if (saving) CheckpointStore(group, config, *saving, log_).save(snapshot_of(*saving, 100));
      world_->patient_barrier();
      const fs::path checkpoint = folder_ / "0" / step_name(100);
      EXPECT_EQ(verify_checkpoint(checkpoint, true), "");
      EXPECT_EQ(read_manifest(checkpoint).ranks, savers);

      for (int readers = 1; readers <= world_->size(); ++readers) {
        for (const int64_t other_parallel : std::set<int64_t>{1, readers}) {
          const auto reading = sub_mesh(readers, cpu_mesh(other_parallel), kExperts);
          if (!reading) continue;
          CheckpointStore store(folder_ / ("reader-" + std::to_string(world_->rank() / readers)), config, *reading, log_);
          EXPECT_EQ(restored_trouble(store, checkpoint, *reading), "") << "saved by " << savers << " (experts over " << expert_parallel
                                                                       << "), read by " << readers << " (over " << other_parallel << ")";
        }
      }
      world_->patient_barrier();
    }
  }
}

TEST_F(StoreOnRanks, CopiesAreWrittenOnceByTheFirstRank) {
  const auto mesh = world_mesh(cpu_mesh(), kExperts);
  CheckpointStore(folder_, {}, *mesh, log_).save(snapshot_of(*mesh, 100));
  std::vector<std::string> files;
  for (const StoredPiece& stored : read_manifest(folder_ / step_name(100)).pieces) {
    if (stored.kind == "state") files.push_back(stored.file);
  }
  EXPECT_EQ(files, std::vector{"rank-0000-of-000" + std::to_string(world_->size()) + "-part-000.h5"});
}

TEST_F(StoreOnRanks, ARankThatCannotWriteStopsTheSaveOnEveryRankAndHarmsNothing) {
  const auto mesh = world_mesh(cpu_mesh(), kExperts);
  CheckpointStore store(folder_, {}, *mesh, log_);
  store.save(snapshot_of(*mesh, 100));

  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old_handler = ::signal(SIGXFSZ, SIG_IGN);  // the write then fails with EFBIG, as it would with ENOSPC
  if (is_last()) {
    const rlimit tight{64, before.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &tight), 0);
  }
  const std::string error = same_error([&] {
    try {
      store.save(snapshot_of(*mesh, 200));
    } catch (const SaveError& refused) {
      EXPECT_TRUE(refused.may_pass());
      throw;
    }
  });
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  ::signal(SIGXFSZ, old_handler);

  const std::string last = std::to_string(world_->size() - 1);
  EXPECT_EQ(error.find("step-00000200 was not saved: rank " + last + ": cannot write "), 0U) << error;
  EXPECT_NE(error.find("rank-000" + last + "-of-"), std::string::npos) << error;
  EXPECT_NE(error.find("File too large"), std::string::npos) << error;
  EXPECT_EQ(names(), Names{"step-00000100"});
  EXPECT_EQ(store.newest_good(), folder_ / "step-00000100");
  store.save(snapshot_of(*mesh, 200));
  EXPECT_EQ(names(), (Names{"step-00000100", "step-00000200"}));
}

TEST_F(StoreOnRanks, ASaveBesideTrainingWritesWhatWasThereWhenItBegan) {
  const auto mesh = world_mesh(cpu_mesh(), kExperts);
  CheckpointStore store(folder_, {}, *mesh, log_);
  for (const int64_t step : {100, 200, 300}) {
    Snapshot live = snapshot_of(*mesh, step, /*salt=*/step);
    EXPECT_FALSE(store.is_running());
    store.begin(live);
    EXPECT_TRUE(store.is_running());
    for (StatePiece& state : live.pieces) state.values.fill_(99);  // training goes on
    live.counters["next_sample"] = 0;
    world_->patient_barrier();  // and so do its collectives
    const CheckpointStore::Report report = store.finish();
    EXPECT_FALSE(store.is_running() || store.is_done());
    EXPECT_EQ(report.step, step);
    EXPECT_GT(report.bytes, 100);
    EXPECT_EQ(restored_trouble(store, folder_ / step_name(step), *mesh, /*salt=*/step), "");
  }
  EXPECT_EQ(names(), (Names{"step-00000200", "step-00000300"}));
}

TEST_F(StoreOnRanks, AStoreThatGoesWaitsForItsSave) {
  const auto mesh = world_mesh(cpu_mesh(), kExperts);
  CheckpointStore(folder_, {}, *mesh, log_).begin(snapshot_of(*mesh, 100));
  EXPECT_EQ(names(), Names{"step-00000100"});
}

TEST_F(StoreOnRanks, TrainingWaitsForASaveWhereOneRankCanHaveNoThreadForIt) {
  const auto mesh = world_mesh(cpu_mesh(), kExperts);
  CheckpointStore store(folder_, {}, *mesh, log_);
  const Snapshot live = snapshot_of(*mesh, 100);
  no_thread_can_be_had = is_last();
  store.begin(live);
  EXPECT_FALSE(no_thread_can_be_had) << "nobody wanted a thread";
  EXPECT_TRUE(store.is_running());
  EXPECT_EQ(store.finish().step, 100);
  EXPECT_EQ(restored_trouble(store, folder_ / step_name(100), *mesh), "");
}

TEST_F(StoreOnRanks, WhatCannotBeSavedBesideTrainingIsTheSameErrorOnEveryRank) {
  const auto mesh = world_mesh(cpu_mesh(), kExperts);
  CheckpointStore store(folder_, {}, *mesh, log_);
  Snapshot snapshot = snapshot_of(*mesh, 100);
  if (is_last()) snapshot.pieces.back().piece.end += 1;
  const auto failed = [&] {
    store.begin(snapshot);
    try {
      store.finish();
    } catch (const SaveError& error) {
      EXPECT_FALSE(error.may_pass());
      throw;
    }
  };
  EXPECT_NE(same_error(failed).find("state/layers.0.router_bias: elements [0, 13) do not lie"), std::string::npos);
  EXPECT_FALSE(store.is_running());
  store.begin(snapshot_of(*mesh, 100));
  store.finish();
  EXPECT_EQ(names(), Names{"step-00000100"});
}

TEST_F(StoreOnRanks, AGapIsFoundBeforeAnythingIsWritten) {
  const auto mesh = world_mesh(cpu_mesh(), kExperts);
  CheckpointStore store(folder_, {}, *mesh, log_);
  Snapshot snapshot = snapshot_of(*mesh, 100);
  if (is_last()) {
    std::erase_if(snapshot.pieces,
                  [](const StatePiece& state) { return state.piece.name == "layers.0.experts" && state.kind == "exp_avg"; });
  }
  const std::string error = same_error([&] { store.save(snapshot); });
  EXPECT_NE(error.find(world_->size() == 1 ? "nothing" : "exp_avg/layers.0.experts: no piece holds elements"), std::string::npos) << error;
  if (world_->size() > 1) {
    EXPECT_EQ(names(), Names{});
  }
}

TEST_F(StoreOnRanks, RanksThatDisagreeOnACounterAreFound) {
  const auto mesh = world_mesh(cpu_mesh(), kExperts);
  CheckpointStore store(folder_, {}, *mesh, log_);
  Snapshot snapshot = snapshot_of(*mesh, 100);
  snapshot.counters["next_sample"] += world_->rank();
  const std::string error = same_error([&] { store.save(snapshot); });
  EXPECT_NE(error.find(world_->size() == 1 ? "nothing" : "rank 1: its step, numbers, counters or config"), std::string::npos) << error;
}

TEST_F(StoreOnRanks, APieceThatIsNoPieceIsNamedOnEveryRank) {
  const auto mesh = world_mesh(cpu_mesh(), kExperts);
  CheckpointStore store(folder_, {}, *mesh, log_);
  Snapshot snapshot = snapshot_of(*mesh, 100);
  if (is_last()) snapshot.pieces.back().piece.end += 1;
  EXPECT_NE(same_error([&] { store.save(snapshot); }).find("state/layers.0.router_bias: elements [0, 13) do not lie"), std::string::npos);
}

TEST_F(StoreOnRanks, AFullDiskIsForeseen) {
  const auto mesh = world_mesh(cpu_mesh(), kExperts);
  CheckpointStore store(folder_, {}, *mesh, log_);
  Snapshot snapshot = snapshot_of(*mesh, 100);
  constexpr int64_t kHuge = int64_t{1} << 46;
  uint8_t byte = 0;  // never read: the check comes first
  snapshot.pieces.push_back(
      {"state", {"huge", Box::whole({kHuge}), 0, kHuge}, at::from_blob(&byte, {kHuge}, at::TensorOptions().dtype(at::kByte))});
  const std::string error = same_error([&] { store.save(snapshot); });
  EXPECT_NE(error.find("rank 0: needs "), std::string::npos) << error;
  EXPECT_NE(error.find(" free"), std::string::npos) << error;
  EXPECT_EQ(names(), Names{});
}

TEST_F(StoreOnRanks, AFolderThatIsGoneIsMadeAgainAndARunFolderIsNot) {
  const auto mesh = world_mesh(cpu_mesh(), kExperts);
  CheckpointStore store(folder_ / "run/checkpoints", {}, *mesh, log_);
  const auto remove = [&](const fs::path& gone) {
    world_->patient_barrier();
    if (world_->rank() == 0) fs::remove_all(gone);
    world_->patient_barrier();
  };
  remove(folder_ / "run/checkpoints");
  EXPECT_EQ(same_error([&] { store.save(snapshot_of(*mesh, 100)); }), "nothing");
  remove(folder_ / "run");
  const std::string error = same_error([&] { store.save(snapshot_of(*mesh, 200)); });
  EXPECT_NE(error.find("rank 0: cannot make "), std::string::npos) << error;
  EXPECT_EQ(names(), Names{});
}

TEST_F(StoreOnRanks, WhatIsInThePlaceOfTheFolderIsSaidAtTheStart) {
  const auto mesh = world_mesh(cpu_mesh(), kExperts);
  const fs::path place = folder_ / "checkpoints";
  if (world_->rank() == 0) write_durably(place, "text", 4);
  world_->patient_barrier();
  const std::string error = same_error([&] { CheckpointStore(place, {}, *mesh, log_); });
  EXPECT_NE(error.find(concat("rank 0: ", place.string(), " is there, and is no folder, which this run needs for its checkpoints")),
            std::string::npos)
      << error;
}

TEST_F(StoreOnRanks, AFolderThatNothingCanBeMadeInIsSaidAtTheStartOfARunThatSaves) {
  const auto mesh = world_mesh(cpu_mesh(), kExperts);
  const fs::path place = folder_ / "checkpoints";
  if (world_->rank() == 0) {
    fs::create_directory(place);
    fs::permissions(place, fs::perms::owner_read | fs::perms::owner_exec);
  }
  world_->patient_barrier();
  {
    const WithoutPrivileges as_a_user(folder_);
    const std::string error = same_error([&] { CheckpointStore(place, {}, *mesh, log_); });
    EXPECT_NE(error.find(concat("no checkpoint can be saved in ", place.string(), ": Permission denied")), std::string::npos) << error;
    CheckpointConfig without_saves;
    without_saves.every_steps = 0;
    without_saves.at_end = false;
    EXPECT_EQ(same_error([&] { CheckpointStore(place, without_saves, *mesh, log_); }), "nothing");
  }
  world_->patient_barrier();
}

TEST_F(StoreOnRanks, AFolderThatIsNotSharedIsSaid) {
  const auto mesh = world_mesh(cpu_mesh(), kExperts);
  const bool apart = is_last() && world_->size() > 1;
  const TemporaryFolder elsewhere;
  CheckpointStore store(apart ? elsewhere.path() : folder_, {}, *mesh, log_);
  const std::string error = same_error([&] { store.save(snapshot_of(*mesh, 100)); });
  if (world_->size() == 1) {
    EXPECT_EQ(error, "nothing");
    return;
  }
  EXPECT_NE(error.find("the checkpoint folder must be shared by all nodes"), std::string::npos) << error;
  EXPECT_EQ(names(), Names{});
}

TEST_F(StoreOnRanks, TheOldestBeyondKeepGoAndLeftoversAreSwept) {
  const auto mesh = world_mesh(cpu_mesh(), kExperts);
  if (world_->rank() == 0) fs::create_directory(folder_ / "step-00000001.tmp");
  world_->patient_barrier();
  CheckpointConfig config;
  config.keep = 3;
  CheckpointStore store(folder_, config, *mesh, log_);
  EXPECT_EQ(names(), Names{});
  for (const int64_t step : {100, 200, 300, 400, 500}) store.save(snapshot_of(*mesh, step));
  EXPECT_EQ(names(), (Names{"step-00000300", "step-00000400", "step-00000500"}));
  // One that is saved amid skipped steps pushes nothing out.
  Snapshot skipping = snapshot_of(*mesh, 600);
  skipping.counters[state_counter::kSkippedInARow] = 2;
  store.save(skipping);
  EXPECT_EQ(names(), (Names{"step-00000300", "step-00000400", "step-00000500", "step-00000600"}));
}

TEST_F(StoreOnRanks, SavingAStepAgainReplacesIt) {
  const auto mesh = world_mesh(cpu_mesh(), kExperts);
  CheckpointStore store(folder_, {}, *mesh, log_);
  store.save(snapshot_of(*mesh, 100));
  store.save(snapshot_of(*mesh, 100, /*salt=*/1));
  EXPECT_EQ(names(), Names{"step-00000100"});
  EXPECT_EQ(restored_trouble(store, folder_ / "step-00000100", *mesh, /*salt=*/1), "");
}

TEST_F(StoreOnRanks, ALeftoverThatStaysKeepsNobodyFromStartingAndSaving) {
  const auto mesh = world_mesh(cpu_mesh(), kExperts);
  const fs::path leftover = folder_ / "step-00000100.tmp";
  std::optional<WithoutPrivileges> user;
  if (world_->rank() == 0) {
    fs::create_directory(leftover);
    write_text(leftover / "half", "half");
    fs::permissions(leftover, fs::perms::owner_read | fs::perms::owner_exec);
  }
  fs::permissions(folder_, fs::perms::all);
  world_->patient_barrier();
  if (world_->rank() == 0) user.emplace(folder_);
  CheckpointStore store(folder_, {}, *mesh, log_);
  for (const int64_t step : {100, 200}) EXPECT_EQ(same_error([&] { store.save(snapshot_of(*mesh, step)); }), "nothing");
  EXPECT_EQ(names(), (Names{"step-00000100", "step-00000100.tmp", "step-00000200"}));
  user.reset();
  if (world_->rank() == 0) fs::permissions(leftover, fs::perms::owner_all);
}

}  // namespace
}  // namespace pimoe
