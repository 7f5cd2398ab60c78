#pragma once

#include "app/user.h"
#include "support/temporary_folder.h"

namespace pimoe {

/// A user who makes smaller models of a trained one.
class TrainedUser : public User {
 protected:
  /// A trained run, and text that it did not see. Trained once for all tests of the program that want the same.
  void train(const std::string& more = "train.steps=30") const {
    static std::map<std::string, TemporaryFolder> trained;  // what was asked for -> the user's folder then
    const std::filesystem::path& kept = trained[more].path();
    constexpr auto kAll = std::filesystem::copy_options::recursive | std::filesystem::copy_options::copy_symlinks;
    if (!std::filesystem::is_empty(kept)) return std::filesystem::copy(kept, folder_, kAll);
    prepare();
    ASSERT_EQ(
        run("head -c 30000 text/a.txt > held.txt && pimoe data build --output held --tokenizer corpus.model --validation 0 held.txt").code,
        0);
    const Outcome outcome = run(concat("pimoe train tiny.yaml data.validation=held train.validation_batches=9 ", more));
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    std::filesystem::copy(folder_, kept, kAll);
  }

  /// @param command  that makes one, with its options  @returns what its --json prints
  nlohmann::json report_of(const std::string& command) const {
    const Outcome outcome = run(command);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    const auto json = nlohmann::json::parse(outcome.out, nullptr, false);
    EXPECT_TRUE(json.is_object()) << outcome.out;
    return json;
  }

  double loss_of(const std::string& checkpoint, const std::string& launcher = "pimoe") const {
    const Outcome outcome = run(concat(launcher, " evaluate --batches 9 --json --checkpoint ", checkpoint));
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return nlohmann::json::parse(outcome.out).at("loss");
  }

  bool is_there(const std::string& name) const { return std::filesystem::exists(folder_ / name); }
};

}  // namespace pimoe
