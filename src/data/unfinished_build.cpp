#include "data/unfinished_build.h"

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "base/errors.h"
#include "base/strict_json.h"
#include "base/text.h"
#include "data/token_file_format.h"

namespace pimoe {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr int kVersion = 1;
constexpr uint64_t kLargestFileBytes = uint64_t{1} << 32;
constexpr const char* kIdentityFile = "build.json";
constexpr const char* kStateFile = "state.json";
constexpr const char* kModelFile = "model";
constexpr const char* kLockFile = "lock";

Json to_json(const CorpusFacts& facts) {
  return {{"documents", facts.documents},
          {"tokens", facts.tokens},
          {"learned", facts.learned},
          {"validation_documents", facts.validation_documents},
          {"validation_tokens", facts.validation_tokens},
          {"validation_learned", facts.validation_learned},
          {"vocabulary", facts.vocabulary},
          {"input_bytes", facts.input_bytes},
          {"skipped_files", facts.skipped_files},
          {"empty_documents", facts.empty_documents},
          {"unigram_entropy", facts.unigram_entropy},
          {"largest_id", facts.largest_id}};
}

CorpusFacts facts_of(const Json& json) {
  CorpusFacts facts;
  json.at("documents").get_to(facts.documents);
  json.at("tokens").get_to(facts.tokens);
  json.at("learned").get_to(facts.learned);
  json.at("validation_documents").get_to(facts.validation_documents);
  json.at("validation_tokens").get_to(facts.validation_tokens);
  json.at("validation_learned").get_to(facts.validation_learned);
  json.at("vocabulary").get_to(facts.vocabulary);
  json.at("input_bytes").get_to(facts.input_bytes);
  json.at("skipped_files").get_to(facts.skipped_files);
  json.at("empty_documents").get_to(facts.empty_documents);
  json.at("unigram_entropy").get_to(facts.unigram_entropy);
  json.at("largest_id").get_to(facts.largest_id);
  return facts;
}

Json to_json(const BuildState& state) {
  Json parts = Json::object();
  for (const auto& [name, at] : state.parts) {
    parts[name] = {{"tokens", at.tokens}, {"documents", at.documents}, {"open_tokens", at.open_tokens}};
  }
  Json json = {{"version", kVersion},
               {"file", state.file},
               {"offset", state.place.offset},
               {"line", state.place.line},
               {"in_document", state.place.in_document},
               {"input_bytes", state.input_bytes},
               {"skipped", state.skipped},
               {"empty", state.empty},
               {"documents", state.documents},
               {"parts", parts}};
  if (state.facts) json["facts"] = to_json(*state.facts);
  return json;
}

BuildState state_of(const Json& json) {
  BuildState state;
  if (json.at("version").get<int>() != kVersion) throw DataError("its version is another");
  json.at("file").get_to(state.file);
  json.at("offset").get_to(state.place.offset);
  json.at("line").get_to(state.place.line);
  json.at("in_document").get_to(state.place.in_document);
  json.at("input_bytes").get_to(state.input_bytes);
  json.at("skipped").get_to(state.skipped);
  json.at("empty").get_to(state.empty);
  json.at("documents").get_to(state.documents);
  for (const auto& [name, at] : json.at("parts").items()) {
    state.parts[name] = {at.at("tokens").get<int64_t>(), at.at("documents").get<int64_t>(), at.at("open_tokens").get<int64_t>()};
  }
  if (json.contains("facts")) state.facts = facts_of(json.at("facts"));
  return state;
}

/// @returns "" or what differs first
std::string difference(const Json& there, const Json& now) {
  for (const auto& [key, value] : now.at("settings").items()) {
    const Json other = there.at("settings").value(key, Json());
    if (other != value) return concat(key, " was ", other.dump(), ", and is ", value.dump(), " now");
  }
  if (there.at("settings").size() != now.at("settings").size()) return "it has other settings";
  const Json &before = there.at("inputs"), &after = now.at("inputs");
  for (size_t i = 0; i < std::min(before.size(), after.size()); ++i) {
    if (before[i] == after[i]) continue;
    const auto name = [](const Json& file) { return file.at(0).get<std::string>(); };
    if (name(before[i]) == name(after[i])) return concat("the input ", name(after[i]), " has changed since");
    return concat("its input has ", name(before[i]), " where this one has ", name(after[i]));
  }
  if (before.size() != after.size())
    return concat("its input was ", counted(static_cast<int64_t>(before.size()), "file"), ", and is ", after.size(), " now");
  return "";
}

bool is_another_holder(const IoError& error) { return error.code() == EWOULDBLOCK || error.code() == EAGAIN; }

/// Holds the lock of a folder that may go while it is waited for.
std::unique_ptr<FileLock> lock_folder(const fs::path& folder) {
  while (true) {
    std::error_code failed;
    fs::create_directories(folder, failed);
    if (failed) throw IoError(concat("cannot make ", folder.string(), ": ", failed.message()), failed.value());
    try {
      auto lock = std::make_unique<FileLock>(folder / kLockFile);
      if (lock->is_in_place()) return lock;
    } catch (const IoError& error) {  // the contract of FileLock
      if (is_another_holder(error)) {
        throw UsageError(concat("another process builds a corpus of this name now: it holds ", (folder / kLockFile).string(),
                                "; wait for it, or name another --output"));
      }
      if (error.code() != ENOENT) throw;  // it was removed meanwhile
    }
  }
}

}  // namespace

fs::path unfinished_folder(const fs::path& prefix) { return index_format::part_name(prefix, ".unfinished"); }

Json identity_of(const InputFiles& input) {
  Json files = Json::array();
  for (const InputFile& file : input.files) {
    std::error_code failed;
    const auto changed = fs::last_write_time(file.path, failed);
    if (failed) throw IoError(concat("cannot look at ", file.path.string(), ": ", failed.message()), failed.value());
    files.push_back({fs::absolute(file.path).lexically_normal().string(), file.bytes, changed.time_since_epoch().count()});
  }
  return files;
}

UnfinishedBuild::UnfinishedBuild(const fs::path& prefix, const Json& identity, bool restart, Logger& log)
    : folder_(unfinished_folder(prefix)), lock_(lock_folder(folder_)) {
  const fs::path file = folder_ / kIdentityFile;
  const bool is_begun = is_there(file);
  if (is_begun && !restart) {
    const Json there = read_strict_json(file, kLargestFileBytes);
    std::string other;
    try {
      other = difference(there, identity);
      if (other.empty()) read_state();
    } catch (const std::exception& error) {  // the contract: whatever is wrong with what it says
      throw DataError(concat(folder_.string(), ", what an earlier build left, is damaged: ", error.what(), ". --restart throws it away"));
    }
    if (!other.empty()) {
      throw UsageError(concat(folder_.string(), " is what another build left unfinished: ", other,
                              ". Give it its own inputs and options to go on, or --restart to throw it away"));
    }
    has_saved_ = found_.has_value() || is_there(folder_ / kModelFile);
    return;
  }
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_)) {
    if (entry.path().filename() != kLockFile) fs::remove_all(entry.path());
  }
  if (is_begun) log.warning(concat(folder_.string(), ", what an earlier build left unfinished, is thrown away"));
  try {
    replace_file(file, identity.dump());
  } catch (const IoError&) {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
    throw;
  }
}

UnfinishedBuild::~UnfinishedBuild() {
  std::error_code ignored;
  if (!has_saved_) fs::remove_all(folder_, ignored);
}

void UnfinishedBuild::read_state() {
  if (!is_there(folder_ / kStateFile)) return;
  found_ = state_of(read_strict_json(folder_ / kStateFile, kLargestFileBytes));
}

std::string UnfinishedBuild::model() const { return is_there(folder_ / kModelFile) ? read_regular_file(folder_ / kModelFile) : ""; }

void UnfinishedBuild::keep_model(const std::string& content) {
  replace_file(folder_ / kModelFile, content);
  has_saved_ = true;
}

void UnfinishedBuild::save(const BuildState& state) {
  replace_file(folder_ / kStateFile, to_json(state).dump());
  has_saved_ = true;
}

void UnfinishedBuild::remove() {
  has_saved_ = false;
  std::error_code failed;
  fs::remove_all(folder_, failed);
  if (failed) throw IoError(concat("cannot remove ", folder_.string(), ": ", failed.message()), failed.value());
}

}  // namespace pimoe
