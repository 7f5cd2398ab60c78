#include "train/presets.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"
#include "train/train_config.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <map>

namespace pimoe {
namespace {

constexpr const char* kLeast = "data: {train: corpus}\nmodel: {vocabulary: 64}\n";  // what no configuration can do without

TrainConfig from_text(const std::string& yaml) { return parse_train_config(yaml, "a.yaml"); }

/// What `pimoe train a.yaml overrides...` would take.
TrainConfig from_file(const std::string& yaml, const std::vector<std::string>& overrides) {
  const auto folder = std::filesystem::temp_directory_path() / concat("pimoe-presets-test-", getpid());
  std::filesystem::create_directories(folder);
  replace_file(folder / "a.yaml", yaml);
  const auto working_folder = std::filesystem::current_path();
  std::filesystem::current_path(folder);  // so that messages say a.yaml
  const auto leave = [&] {
    std::filesystem::current_path(working_folder);
    std::filesystem::remove_all(folder);
  };
  try {
    const TrainConfig config = load_train_config("a.yaml", overrides);
    leave();
    return config;
  } catch (...) {
    leave();
    throw;
  }
}

std::string complaint(const std::string& yaml, const std::vector<std::string>& overrides) {
  try {
    from_file(yaml, overrides);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

/// @returns everything but the preset's name.
std::string values(TrainConfig config) {
  config.preset = "none";
  config.run.directory = "runs/any";
  return to_yaml(config);
}

/// @returns "a.b=c" for every key that to_yaml prints. A list, whose lines begin with a dash, has no line of its own form.
std::vector<std::string> as_overrides(const std::string& yaml) {
  std::vector<std::string> overrides;
  std::vector<std::string> path;
  for (const std::string& line : split(yaml, '\n')) {
    const size_t indent = line.find_first_not_of(' ');
    if (indent == std::string::npos) continue;
    EXPECT_NE(line[indent], '-') << "lists are for another test";
    path.resize(indent / 2);
    const std::string text = line.substr(indent, line.find("  # ") - indent);
    const size_t colon = text.find(": ");
    path.push_back(colon == std::string::npos ? text.substr(0, text.size() - 1) : text.substr(0, colon));
    if (colon != std::string::npos) overrides.push_back(concat(join(path, "."), "=", text.substr(colon + 2)));
  }
  return overrides;
}

TEST(Presets, AreTheFilesOfTheirFolder) {
  std::map<std::string, std::string> files;
  for (const auto& file : std::filesystem::directory_iterator(std::filesystem::path(PIMOE_SOURCE_FOLDER) / "../configs/presets")) {
    ASSERT_EQ(file.path().extension(), ".yaml");
    files[file.path().stem()] = read_file(file.path());
  }
  std::map<std::string, std::string> built_in;
  for (const Preset& preset : presets()) built_in[std::string(preset.name)] = preset.yaml;
  EXPECT_EQ(built_in, files);
  for (const char* name : {"basic", "enhanced", "advanced", "aggressive", "production"}) EXPECT_TRUE(built_in.contains(name)) << name;
}

TEST(Presets, SayWhatTheyAreForAndNameNoPreset) {
  for (const Preset& preset : presets()) {
    EXPECT_EQ(preset.yaml.substr(0, 2), "# ") << preset.name;
    EXPECT_GT(preset.purpose().size(), 20u) << preset.name;
    EXPECT_EQ(peek_text({{std::string(preset.yaml), "preset"}}, {}, "preset"), std::nullopt) << preset.name;
  }
}

TEST(Presets, OptimizedIsAnotherNameOfAdvanced) {
  EXPECT_EQ(find_preset("optimized")->name, "advanced");
  EXPECT_EQ(values(from_text(concat("preset: optimized\n", kLeast))), values(from_text(concat("preset: advanced\n", kLeast))));
  EXPECT_EQ(find_preset("none"), std::nullopt);
  EXPECT_EQ(find_preset("basi"), std::nullopt);
}

TEST(Presets, EachIsReadAndDiffersFromTheDefaultsAndFromTheOthers) {
  std::map<std::string, std::string_view> seen = {{values(from_text(kLeast)), "none"}};
  for (const Preset& preset : presets()) {
    const auto [same, is_new] = seen.emplace(values(from_text(concat("preset: ", preset.name, "\n", kLeast))), preset.name);
    EXPECT_TRUE(is_new) << preset.name << " gives what " << same->second << " gives";
  }
}

TEST(Presets, FileWinsOverEveryKey) {
  const std::string defaults = values(from_text(kLeast));
  for (const std::string& name : preset_names()) {
    std::string yaml = defaults;
    yaml.replace(yaml.find("none"), 4, name);  // the first line: `preset: none`
    const TrainConfig config = from_text(yaml);
    EXPECT_EQ(config.preset, name);
    EXPECT_EQ(values(config), defaults) << name;
  }
}

TEST(Presets, CommandLineWinsOverEveryKey) {
  const std::string defaults = values(from_text(kLeast));
  for (const std::string& name : preset_names()) {
    std::vector<std::string> overrides = as_overrides(defaults);
    ASSERT_EQ(overrides.front(), "preset=none");
    overrides.front() = "preset=" + name;
    const TrainConfig config = from_file(kLeast, overrides);
    EXPECT_EQ(config.preset, name);
    EXPECT_EQ(values(config), defaults) << name;
  }
}

TEST(Presets, CommandLineChoosesThePreset) {
  for (const std::string& name : preset_names()) {
    const std::string wanted = values(from_text(concat("preset: ", name, "\n", kLeast)));
    EXPECT_EQ(values(from_file(kLeast, {"preset=" + name})), wanted) << name;
    EXPECT_EQ(values(from_file(concat(kLeast, "preset: basic\n"), {"preset=" + name})), wanted) << name;
    EXPECT_EQ(values(from_file(concat("preset: ", name, "\n", kLeast), {"preset=none"})), values(from_text(kLeast))) << name;
  }
}

TEST(Presets, PrintedConfigurationReadsBackToTheSame) {
  for (const std::string& name : preset_names()) {
    const TrainConfig config =
        from_text(concat("preset: ", name, "\ndata: {train: corpus}\nmodel: {vocabulary: 64, moe: {balance: {switch_loss: 0.125}}}\n"));
    EXPECT_EQ(config.model.moe.balance.switch_loss, 0.125) << name;
    const std::string printed = to_yaml(config);
    EXPECT_EQ(printed.find(concat("preset: ", name)), 0u) << printed;
    EXPECT_EQ(to_yaml(from_text(printed)), printed) << name;
  }
}

TEST(Presets, UnknownOneIsRefusedWithItsPlaceAndTheNearest) {
  const std::string known = join(preset_names(), ", ");
  EXPECT_EQ(complaint(concat("train: {steps: x}\npreset: advnced\n", kLeast), {}),
            concat("a.yaml:1:16: train.steps: x must be an integer\n"
                   "a.yaml:2:9: preset: advnced must be one of none, ",
                   known, "; did you mean advanced?"));
  EXPECT_EQ(complaint(kLeast, {"preset=zzzzzzzz"}), concat("command line: preset: zzzzzzzz must be one of none, ", known));
  EXPECT_EQ(complaint(concat("preset:\n", kLeast), {}), "a.yaml:1:1: preset: has no value; leave the key out to take the default");
  EXPECT_EQ(complaint(concat("preset: [basic]\n", kLeast), {}), "a.yaml:1:9: preset: is one value, not a list");
}

}  // namespace
}  // namespace pimoe
