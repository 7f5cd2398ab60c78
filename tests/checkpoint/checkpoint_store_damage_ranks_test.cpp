/// Which checkpoint is taken, which are set aside, and what every rank is told when one of them cannot read.

#include "base/errors.h"
#include "base/text.h"
#include "checkpoint/store_on_ranks.h"
#include "checkpoint/verification.h"
#include "support/without_privileges.h"

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <thread>

namespace pimoe {
namespace {

namespace fs = std::filesystem;
using Names = std::set<std::string>;

TEST_F(StoreOnRanks, ARankThatDoesNotSeeACheckpointDoesNotCondemnIt) {
  const auto mesh = world_mesh(cpu_mesh(), kExperts);
  CheckpointStore(folder_, {}, *mesh, log_).save(snapshot_of(*mesh, 100));
  const bool apart = is_last() && world_->size() > 1;
  const TemporaryFolder elsewhere;
  CheckpointStore store(apart ? elsewhere.path() : folder_, {}, *mesh, log_);
  const std::string error = same_error([&] { store.newest_good(); });
  EXPECT_NE(error.find(world_->size() == 1 ? "nothing" : "the folder must be shared by all nodes"), std::string::npos) << error;
  EXPECT_EQ(names(), Names{"step-00000100"});
}

TEST_F(StoreOnRanks, DamagedOnesAreSetAsideAndTheNewestGoodOneIsTheSameOnEveryRank) {
  const auto mesh = world_mesh(cpu_mesh(), kExperts);
  CheckpointConfig config;
  config.keep = 4;
  CheckpointStore store(folder_, config, *mesh, log_);
  EXPECT_EQ(store.newest_good(), std::nullopt);
  for (const int64_t step : {100, 200, 300, 400}) store.save(snapshot_of(*mesh, step));
  EXPECT_EQ(store.newest_good(), folder_ / "step-00000400");
  world_->patient_barrier();
  const std::string last_file = read_manifest(folder_ / "step-00000400").files.back().name;
  world_->patient_barrier();
  if (world_->rank() == 0) {
    std::string bytes = read_text(folder_ / "step-00000400" / last_file);
    bytes[bytes.size() / 2] ^= 1;
    write_text(folder_ / "step-00000400" / last_file, bytes);
    fs::remove(folder_ / "step-00000300" / last_file);
    fs::resize_file(folder_ / "step-00000200" / "manifest.json", 100);
  }
  world_->patient_barrier();
  EXPECT_EQ(store.newest_good(), folder_ / "step-00000100");
  EXPECT_EQ(names(), (Names{"step-00000100", "step-00000200.bad", "step-00000300.bad", "step-00000400.bad"}));
  const std::string reason = read_text(folder_ / "step-00000400.bad" / "reason.txt");
  EXPECT_NE(reason.find(last_file + " is damaged: its bytes do not have the digest"), std::string::npos) << reason;
}

// Reading a process' memory where it has none is an I/O error, as of a disk that does not give a block back.
TEST_F(StoreOnRanks, WhatTheDiskDoesNotGiveBackIsSetAsideOnlyWhereAnOlderOneCanBeRead) {
  const auto mesh = world_mesh(cpu_mesh(), kExperts);
  CheckpointConfig config;
  config.keep = 3;
  CheckpointStore store(folder_, config, *mesh, log_);
  for (const int64_t step : {100, 200, 300}) store.save(snapshot_of(*mesh, step));
  const auto make_unreadable = [&](const char* step) {
    const fs::path manifest = folder_ / step / "manifest.json";
    if (world_->rank() == 0) {
      fs::rename(manifest, folder_ / concat(step, ".kept"));
      fs::create_symlink("/proc/self/mem", manifest);
    }
    world_->patient_barrier();
    return concat(manifest.string(), ": Input/output error");
  };
  const auto bring_back = [&](const char* step) { fs::rename(folder_ / concat(step, ".kept"), folder_ / step / "manifest.json"); };

  // It has passed when it is looked at again.
  make_unreadable("step-00000300");
  std::thread passes;
  if (world_->rank() == 0) {
    passes = std::thread([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
      bring_back("step-00000300");
    });
  }
  Manifest manifest;
  EXPECT_EQ(store.newest_good(&manifest), folder_ / "step-00000300");
  EXPECT_EQ(manifest.step, 300);
  if (passes.joinable()) passes.join();
  EXPECT_EQ(names(), (Names{"step-00000100", "step-00000200", "step-00000300"}));

  const std::string said = make_unreadable("step-00000300");
  EXPECT_EQ(store.newest_good(&manifest), folder_ / "step-00000200");
  EXPECT_EQ(manifest.step, 200);
  EXPECT_EQ(manifest.files.size(), read_manifest(folder_ / "step-00000200").files.size());
  EXPECT_EQ(names(), (Names{"step-00000100", "step-00000200", "step-00000300.bad", "step-00000300.kept"}));
  const std::string reason = read_text(folder_ / "step-00000300.bad/reason.txt");
  EXPECT_NE(reason.find(concat("twice it could not be read, as one before it can: rank 0: cannot read ", said)), std::string::npos)
      << reason;

  // Where none can be read it may be the whole disk, or the network.
  make_unreadable("step-00000200");
  make_unreadable("step-00000100");
  try {
    store.newest_good();
    ADD_FAILURE() << "must throw";
  } catch (const IoError& error) {
    EXPECT_NE(std::string(error.what()).find("step-00000200/manifest.json: Input/output error. It may pass"), std::string::npos)
        << error.what();
  }
  world_->patient_barrier();
  if (world_->rank() == 0) {
    bring_back("step-00000200");
    bring_back("step-00000100");
  }
  world_->patient_barrier();
  EXPECT_EQ(store.newest_good(), folder_ / "step-00000200") << "it has passed";
}

TEST_F(StoreOnRanks, WhatOneMayNotReadIsNotSetAside) {
  const auto mesh = world_mesh(cpu_mesh(), kExperts);
  CheckpointStore store(folder_, {}, *mesh, log_);
  for (const int64_t step : {100, 200}) store.save(snapshot_of(*mesh, step));
  const fs::path newest = folder_ / "step-00000200";
  world_->patient_barrier();
  fs::permissions(folder_, fs::perms::all);
  if (world_->rank() == 0) fs::permissions(newest / read_manifest(newest).files.back().name, fs::perms::none);
  world_->patient_barrier();
  {
    const WithoutPrivileges user(folder_);
    EXPECT_THROW(store.newest_good(), IoError);
  }
  world_->patient_barrier();
  EXPECT_EQ(names(), (Names{"step-00000100", "step-00000200"}));
}

// Between its verification and its load; only the rank that wants the file meets it.
TEST_F(StoreOnRanks, WhatIsDamagedOnlyAtItsLoadIsEveryRanksDamageAndCanBeSetAside) {
  const auto mesh = world_mesh(cpu_mesh(), kExperts);
  CheckpointStore store(folder_, {}, *mesh, log_);
  for (const int64_t step : {100, 200}) store.save(snapshot_of(*mesh, step));
  const fs::path newest = store.newest_good().value();
  const std::string file = read_manifest(newest).files.back().name;
  world_->patient_barrier();
  if (world_->rank() == 0) fs::remove(newest / file);
  world_->patient_barrier();
  std::string said;
  try {
    restored_trouble(store, newest, *mesh);
    ADD_FAILURE() << "must throw";
  } catch (const DamageError& error) {
    said = error.what();
  }
  EXPECT_NE(said.find(concat(file, ": No such file or directory")), std::string::npos) << said;
  EXPECT_TRUE(store.set_aside(newest, said));
  EXPECT_FALSE(store.set_aside(newest, said)) << "it is not there any more";
  EXPECT_EQ(names(), (Names{"step-00000100", "step-00000200.bad"}));
  EXPECT_EQ(store.newest_good(), folder_ / "step-00000100");
  EXPECT_EQ(restored_trouble(store, folder_ / "step-00000100", *mesh), "");
}

TEST_F(StoreOnRanks, WhatOneRankCannotRestoreEveryRankSays) {
  const auto mesh = world_mesh(cpu_mesh(), kExperts);
  CheckpointStore store(folder_, {}, *mesh, log_);
  store.save(snapshot_of(*mesh, 100));
  Snapshot wanted;
  wanted.pieces = layout(*mesh, blank);
  if (is_last()) wanted.pieces.push_back(blank("master", {"layers.0.nrom", Box::whole({3}), 0, 3}, at::kFloat));
  const std::string error = same_error([&] { store.restore(folder_ / "step-00000100", wanted); });
  EXPECT_NE(error.find("has no tensor master/layers.0.nrom; the nearest that it has is master/layers.0.norm"), std::string::npos) << error;
  EXPECT_NE(same_error([&] { store.restore(folder_ / "step-00000900", wanted); }), "nothing");
}

}  // namespace
}  // namespace pimoe
