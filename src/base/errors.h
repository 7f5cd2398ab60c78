#pragma once

/// The errors that PiMoE throws. The type says who can mend it, and with that the exit code (see exit_code).

#include <stdexcept>
#include <string>

namespace pimoe {

/// A message gives name, value and rule: "model.moe.experts (8) must be divisible by mesh.expert_parallel (3)".
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The command line is wrong: unknown subcommand, missing argument.
class UsageError : public Error {
 public:
  using Error::Error;
};

/// The configuration, or its fit to the machine and the rank count, is wrong.
class ConfigError : public Error {
 public:
  using Error::Error;
};

/// Input data (corpus, token file, tokenizer) is missing, damaged or does not fit the model.
class DataError : public Error {
 public:
  using Error::Error;
};

/// A checkpoint is damaged or does not fit the model.
class CheckpointError : public Error {
 public:
  using Error::Error;
};

/// A checkpoint could not be written. Those before it stay good.
class SaveError : public CheckpointError {
 public:
  /// @param may_pass  no space, an I/O error: what another try may not meet again; false: the state itself cannot be saved
  explicit SaveError(const std::string& message, bool may_pass = true) : CheckpointError(message), may_pass_(may_pass) {}
  bool may_pass() const { return may_pass_; }

 private:
  bool may_pass_;
};

/// The file system refused: no space, no permission, I/O error. `code` is the errno.
class IoError : public Error {
 public:
  IoError(const std::string& message, int code) : Error(message), code_(code) {}
  int code() const { return code_; }
  /// Whether what it takes is room: a full disk, a quota, a limit on file sizes.
  bool is_lack_of_space() const;

 private:
  int code_;
};

/// A rank, a link or a communication library failed.
class CommError : public Error {
 public:
  using Error::Error;
};

/// A public function got a tensor of the wrong shape, dtype or device: a mistake in code, not in input.
class ShapeError : public Error {
 public:
  using Error::Error;
};

/// Process exit codes (sysexits.h, and one of ours for "saved, please requeue").
enum class ExitCode : int {
  kDone = 0,
  kCheckSaysNo = 1,
  kUsage = 64,
  kBadData = 65,
  kInternal = 70,
  kInputOutput = 74,
  kRequeue = 75,
  kBadConfig = 78,
};

/// @returns the exit code that tells a script what kind of error this was; kInternal for what is not an Error of ours.
ExitCode exit_code(const std::exception& error);

}  // namespace pimoe
