#pragma once

#include "base/file_io.h"
#include "base/log.h"
#include "data/corpus_facts.h"
#include "data/documents.h"
#include "data/token_file.h"

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace pimoe {

/// How far a build is: everything before `file` and `place` is in the outputs, and on the disk.
struct BuildState {
  size_t file = 0;  ///< of the input, in its order
  ReadPoint place;  ///< in that file
  int64_t input_bytes = 0;
  int64_t skipped = 0;                                     ///< files that turned out to be no text
  int64_t empty = 0;                                       ///< documents without text, which are left out
  int64_t documents = 0;                                   ///< read so far: decides which go to the validation part
  std::map<std::string, TokenFileWriter::Position> parts;  ///< "training", "validation"
  std::optional<CorpusFacts> facts;                        ///< of the whole, where only the final names are missing
};

/// A build that is not finished, so that one that was killed goes on where it was: a folder beside the corpus.
///
///     PREFIX.unfinished/build.json     what is built: settings, the tokenizer's digest, and every file of the input with its size and time
///                       model          the tokenizer that was trained for it
///                       training.bin, .idx, validation.bin, .idx    as far as they are, or a little further
///                       state.json     BuildState: the outputs count up to what it says
///                       lock           held by the process that builds
///
/// state.json is replaced (base/file_io.h) once the outputs up to it are on the disk, so that a kill at any moment leaves a pair that fits: who goes on
/// cuts the outputs to what it says. An output that is added needs a name in the folder and a size that follows from BuildState; a setting that is added
/// is a key of `identity`.
class UnfinishedBuild {
 public:
  /// Takes the folder, makes it where it is missing, and reads what is there.
  /// @param identity  everything that the result depends on, {"settings": {...}, "inputs": [...]}
  /// @param restart   throw away what is there, and say so
  /// @throws UsageError where another process builds under this prefix, or what is there is of another identity: names what differs; DataError where
  ///         it is damaged; IoError
  UnfinishedBuild(const std::filesystem::path& prefix, const nlohmann::ordered_json& identity, bool restart, Logger& log);
  /// What has not saved a state leaves nothing.
  ~UnfinishedBuild();
  UnfinishedBuild(const UnfinishedBuild&) = delete;
  UnfinishedBuild& operator=(const UnfinishedBuild&) = delete;

  const std::filesystem::path& folder() const { return folder_; }
  const std::optional<BuildState>& found() const { return found_; }  ///< nothing: begin at the beginning

  /// The tokenizer that was trained; "" before. @throws IoError
  std::string model() const;
  void keep_model(const std::string& content);

  /// REQUIRES that the outputs are on the disk up to it. @throws IoError
  void save(const BuildState& state);
  bool has_saved() const { return has_saved_; }

  /// The build is done, or cannot go on: nothing of it is needed. @throws IoError
  void remove();

 private:
  void read_state();

  std::filesystem::path folder_;
  std::unique_ptr<FileLock> lock_;
  std::optional<BuildState> found_;
  bool has_saved_ = false;
};

/// PREFIX.unfinished
std::filesystem::path unfinished_folder(const std::filesystem::path& prefix);

/// "inputs" of an identity: path, bytes and time of change of each file. @throws IoError
nlohmann::ordered_json identity_of(const InputFiles& input);

}  // namespace pimoe
