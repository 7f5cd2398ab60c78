/// Includes only ever point down, and rooms on one floor never see each other. Walks every #include of src/.

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <regex>
#include <string>
#include <vector>

#include "base/file_io.h"
#include "base/text.h"

namespace pimoe {
namespace {

namespace fs = std::filesystem;

const std::map<std::string, int> kFloors = {
    {"base", 0},                                                         //
    {"ops", 1},      {"data", 1},                                        //
    {"parallel", 2},                                                     //
    {"moe", 3},      {"checkpoint", 3},                                  //
    {"model", 4},                                                        //
    {"train", 5},    {"interop", 5},                                     //
    {"proof", 6},    {"analysis", 6},   {"preflight", 6}, {"bench", 6},  //
    {"monitor", 6},  {"compress", 6},   {"serve", 6},                    //
    {"app", 7},
};

/// The loop that `pimoe parity` compares with shares no code with what it checks, nor do the two files see the rest of their folder.
const std::regex kIndependent("proof/parity_(attention|reference|router)\\.(h|cpp)");
const std::regex kSharedWithIndependent("base/.*|model/model_config\\.h|proof/parity_(attention|reference|router)\\.h");

/// A library that few of our files may see.
struct Guarded {
  std::regex header;
  const char* who;
  std::function<bool(const std::string& file)> allowed;
};

bool is_file_of(const std::string& file, const std::string& folder, const std::string& extension) {
  return file.starts_with(folder + "/") && file.ends_with(extension);
}

const std::vector<Guarded>& guarded_headers() {
  static const auto only = [](const std::string& name) { return [name](const std::string& file) { return file == name; }; };
  static const std::vector<Guarded> list = {
      {std::regex("(mpi|nccl|nccl_device)\\.h"), "parallel/*.cpp and *.cu",
       [](const std::string& file) { return is_file_of(file, "parallel", ".cpp") || is_file_of(file, "parallel", ".cu"); }},
      {std::regex("yaml-cpp/.*"), "base/config_yaml.cpp", only("base/config_yaml.cpp")},
      {std::regex("(hdf5|H5)[^/]*\\.h"), "base/hdf5_file.cpp", only("base/hdf5_file.cpp")},
      {std::regex("(spdlog|fmt)/.*"), "base/log.cpp", only("base/log.cpp")},
      {std::regex("pcre2\\.h"), "data/text_pattern.cpp", only("data/text_pattern.cpp")},
      {std::regex("jinja/.*"), "data/chat_template.cpp", only("data/chat_template.cpp")},
      {std::regex("utf8proc\\.h"), "data/unicode_forms.cpp", only("data/unicode_forms.cpp")},
      {std::regex("(zlib|zstd)\\.h"), "data/byte_source.cpp", only("data/byte_source.cpp")},
      {std::regex("sentencepiece_.*"), "data/sentencepiece_model.cpp, data/sentencepiece_json.cpp and data/tokenizer_training.cpp",
       [](const std::string& file) {
         return file == "data/sentencepiece_model.cpp" || file == "data/sentencepiece_json.cpp" || file == "data/tokenizer_training.cpp";
       }},
      {std::regex("boost/.*"), "serve/http_*", [](const std::string& file) { return file.starts_with("serve/http_"); }},
      {std::regex("curl/.*"), "train/webhook.cpp", only("train/webhook.cpp")},
      {std::regex("openssl/.*"), "base/digest.cpp", only("base/digest.cpp")},
      {std::regex("CLI/.*"), "app", [](const std::string& file) { return file.starts_with("app/"); }},
      {std::regex("(torch|ATen|c10)/.*"), "folders above base", [](const std::string& file) { return !file.starts_with("base/"); }},
      {std::regex("torch/torch\\.h"), "no file (it takes 13 seconds to compile)", [](const std::string&) { return false; }},
  };
  return list;
}

std::string folder_of(const std::string& path) {
  const size_t slash = path.find('/');
  return slash == std::string::npos ? "" : path.substr(0, slash);
}

/// @param file    path below src/: "moe/router.cpp"
/// @param header  as it is written between the quotes or brackets
/// @returns what is wrong with the include, or "".
std::string complaint_about(const std::string& file, const std::string& header, bool is_quoted) {
  const auto from = kFloors.find(folder_of(file));
  if (from == kFloors.end()) return "is included in a folder that is on no floor";
  for (const Guarded& guarded : guarded_headers()) {
    if (std::regex_match(header, guarded.header) && !guarded.allowed(file)) return concat("is for ", guarded.who, " alone");
  }
  const auto to = kFloors.find(folder_of(header));
  if (to == kFloors.end()) return is_quoted ? "names no folder of src/" : "";
  if (std::regex_match(file, kIndependent) && !std::regex_match(header, kSharedWithIndependent)) {
    return "is code that the independent reference checks";
  }
  if (to->first == from->first || to->second < from->second) return "";
  return to->second > from->second ? "points upward" : "points sideways";
}

/// @returns a line for each include of `content` that breaks a rule.
std::vector<std::string> broken_includes(const std::string& file, const std::string& content) {
  static const std::regex kInclude(R"re(^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"].*)re");
  std::vector<std::string> broken;
  const std::vector<std::string> lines = split(content, '\n');
  for (size_t i = 0; i < lines.size(); ++i) {
    std::smatch match;
    if (!std::regex_match(lines[i], match, kInclude)) continue;
    const std::string complaint = complaint_about(file, match[2], match[1] == "\"");
    if (!complaint.empty()) broken.push_back(concat("src/", file, ":", i + 1, ": ", match[2].str(), " ", complaint));
  }
  return broken;
}

std::string first_complaint(const std::string& file, const std::string& line) {
  const std::vector<std::string> broken = broken_includes(file, line);
  return broken.empty() ? "" : broken.front();
}

TEST(IncludeFloors, DownwardAndSameFolderIsAllowed) {
  EXPECT_EQ(first_complaint("moe/router.cpp", "#include \"moe/router.h\""), "");
  EXPECT_EQ(first_complaint("moe/router.cpp", "#include \"ops/swiglu.h\""), "");
  EXPECT_EQ(first_complaint("train/trainer.cpp", "#include \"data/data_stream.h\""), "");
  EXPECT_EQ(first_complaint("app/main.cpp", "#include \"base/errors.h\""), "");
  EXPECT_EQ(first_complaint("base/text.cpp", "#include <vector>"), "");
  EXPECT_EQ(first_complaint("base/text.cpp", "// \"moe/router.h\" is not included"), "");
}

TEST(IncludeFloors, UpwardIsRefused) {
  EXPECT_EQ(first_complaint("base/text.cpp", "#include \"ops/swiglu.h\""), "src/base/text.cpp:1: ops/swiglu.h points upward");
  EXPECT_EQ(first_complaint("moe/router.h", "\n  #  include  \"model/loss.h\"  // why"), "src/moe/router.h:2: model/loss.h points upward");
  EXPECT_EQ(first_complaint("train/trainer.h", "#include <app/command.h>"), "src/train/trainer.h:1: app/command.h points upward");
  EXPECT_EQ(first_complaint("ops/swiglu.h", "#include \"parallel/mesh.h\""), "src/ops/swiglu.h:1: parallel/mesh.h points upward");
}

TEST(IncludeFloors, SidewaysIsRefused) {
  EXPECT_EQ(first_complaint("ops/swiglu.h", "#include \"data/corpus.h\""), "src/ops/swiglu.h:1: data/corpus.h points sideways");
  EXPECT_EQ(first_complaint("checkpoint/store.h", "#include \"moe/router.h\""), "src/checkpoint/store.h:1: moe/router.h points sideways");
  EXPECT_EQ(first_complaint("serve/engine.h", "#include \"bench/report.h\""), "src/serve/engine.h:1: bench/report.h points sideways");
}

TEST(IncludeFloors, IncludeMustNameItsFolder) {
  EXPECT_EQ(first_complaint("moe/router.cpp", "#include \"router.h\""), "src/moe/router.cpp:1: router.h names no folder of src/");
  EXPECT_EQ(first_complaint("moe/router.cpp", "#include \"../model/loss.h\""),
            "src/moe/router.cpp:1: ../model/loss.h names no folder of src/");
  EXPECT_EQ(first_complaint("attic/x.cpp", "#include <vector>"), "src/attic/x.cpp:1: vector is included in a folder that is on no floor");
}

TEST(IncludeFloors, ThirdPartyHeadersStayInTheirRooms) {
  EXPECT_EQ(first_complaint("parallel/mpi_communicator.cpp", "#include <mpi.h>"), "");
  EXPECT_EQ(first_complaint("parallel/exchange_cuda.cu", "#include <nccl_device.h>"), "");
  EXPECT_EQ(first_complaint("parallel/mpi_communicator.h", "#include <mpi.h>"),
            "src/parallel/mpi_communicator.h:1: mpi.h is for parallel/*.cpp and *.cu alone");
  EXPECT_NE(first_complaint("ops/swiglu_cuda.cu", "#include <nccl.h>"), "");
  EXPECT_EQ(first_complaint("base/config_yaml.cpp", "#include <yaml-cpp/parser.h>"), "");
  EXPECT_NE(first_complaint("train/train_config.cpp", "#include <yaml-cpp/yaml.h>"), "");
  EXPECT_EQ(first_complaint("base/hdf5_file.cpp", "#include <hdf5.h>"), "");
  EXPECT_NE(first_complaint("base/hdf5_file.h", "#include <H5Ipublic.h>"), "");
  EXPECT_EQ(first_complaint("base/log.cpp", "#include <spdlog/logger.h>"), "");
  EXPECT_NE(first_complaint("base/log.h", "#include <spdlog/logger.h>"), "");
  EXPECT_EQ(first_complaint("data/tokenizer_training.cpp", "#include <sentencepiece_trainer.h>"), "");
  EXPECT_NE(first_complaint("data/tokenizer.cpp", "#include <sentencepiece_processor.h>"), "");
  EXPECT_EQ(first_complaint("app/train_command.cpp", "#include <CLI/CLI.hpp>"), "");
  EXPECT_NE(first_complaint("train/trainer.cpp", "#include <CLI/CLI.hpp>"), "");
  EXPECT_EQ(first_complaint("train/webhook.cpp", "#include <curl/curl.h>"), "");
  EXPECT_NE(first_complaint("train/alerts.cpp", "#include <curl/curl.h>"), "");
  EXPECT_EQ(first_complaint("ops/swiglu.h", "#include <ATen/core/Tensor.h>"), "");
  EXPECT_NE(first_complaint("base/text.h", "#include <ATen/core/Tensor.h>"), "");
  EXPECT_NE(first_complaint("model/loss.cpp", "#include <torch/torch.h>"), "");
}

TEST(IncludeFloors, TheReferenceOfParitySharesNothingWithWhatItChecks) {
  EXPECT_EQ(first_complaint("proof/parity_reference.cpp", "#include \"base/random.h\""), "");
  EXPECT_EQ(first_complaint("proof/parity_reference.h", "#include \"model/model_config.h\""), "");
  EXPECT_EQ(first_complaint("proof/parity_router.h", "#include \"proof/parity_reference.h\""), "");
  EXPECT_EQ(first_complaint("proof/parity_router.cpp", "#include <ATen/ATen.h>"), "");
  EXPECT_EQ(first_complaint("proof/parity_router.cpp", "#include \"moe/router.h\""),
            "src/proof/parity_router.cpp:1: moe/router.h is code that the independent reference checks");
  EXPECT_NE(first_complaint("proof/parity_attention.cpp", "#include \"model/rotary_table.h\""), "");
  EXPECT_NE(first_complaint("proof/parity_reference.cpp", "#include \"model/transformer.h\""), "");
  EXPECT_NE(first_complaint("proof/parity_reference.cpp", "#include \"proof/observed_model.h\""), "");
  EXPECT_EQ(first_complaint("proof/parity_facts.cpp", "#include \"moe/balance.h\""), "");
}

TEST(IncludeFloors, HoldForEveryFileOfTheSource) {
  const fs::path source = PIMOE_SOURCE_FOLDER;
  const std::vector<std::string> extensions = {".h", ".cpp", ".cu", ".cuh"};
  size_t files = 0;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(source)) {
    if (!entry.is_regular_file() || std::find(extensions.begin(), extensions.end(), entry.path().extension()) == extensions.end()) continue;
    ++files;
    for (const std::string& line : broken_includes(fs::relative(entry.path(), source).generic_string(), read_file(entry.path()))) {
      ADD_FAILURE() << line;
    }
  }
  EXPECT_GT(files, 20u) << "the walk found too little under " << source;
}

}  // namespace
}  // namespace pimoe
