#pragma once

#include "app/user.h"
#include "interop/hf_fixture.h"
#include "support/temporary_folder.h"

#include <filesystem>
#include <map>
#include <string>

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

  /// A Qwen3-MoE with a tokenizer and a chat template, as others publish them, imported as runs/qwen; it is of the vocabulary of `corpus`.
  void import_chat_model() const {
    train("train.steps=1");
    ASSERT_EQ(run("pimoe export runs/tiny --output tiny-hf").code, 0);
    HfJson config = tiny_config(HfFamily::kQwen3Moe);
    config["vocab_size"] = 300;
    std::filesystem::create_directories(folder_ / "hf");
    write("hf/config.json", config.dump());
    write("hf/generation_config.json", "{\"eos_token_id\": 2}");
    write("hf/tokenizer.json", read_file(folder_ / "tiny-hf/tokenizer.json"));
    write("hf/tokenizer_config.json",
          R"({"eos_token": "</s>", "chat_template": "{% for m in messages %}the {{ m.content }} {% endfor %}"})");
    write_tiny_weights(folder_ / "hf", config, at::kFloat);
    const Outcome imported = run("pimoe import hf --output runs/qwen");
    ASSERT_EQ(imported.code, 0) << imported.err;
  }

  /// Whether a run chats with what it carries along itself.
  void expect_it_chats(const std::string& name) const {
    for (const char* file : {"tokenizer.json", "tokenizer_config.json", "generation_config.json"}) {
      EXPECT_EQ(run(concat("cmp hf/", file, " ", name, "/hf/", file)).code, 0) << name << " " << file;
    }
    const Outcome chat = run(concat("mkdir away && mv hf runs/qwen away; pimoe generate --chat --json --tokens 5 --checkpoint ", name,
                                    " --prompt cats; code=$?; mv away/hf . && mv away/qwen runs; rmdir away; exit $code"));
    EXPECT_EQ(chat.code, 0) << name << "\n" << chat.err;
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
