#pragma once

#include "base/errors.h"
#include "base/progress.h"
#include "base/thread_error.h"
#include "checkpoint/verification.h"

#include <exception>
#include <string>

namespace pimoe {

/// What kind of trouble one rank had, for what all ranks throw.
enum class TroubleKind {
  kNone,
  kMedium,  ///< a file could not be read, by what the medium said of it
  kIo,      ///< a file could not be looked at for another reason: it may pass
  kDamage,  ///< a file is not what was written
  kOther,
};

/// @returns "" if `work` returned, else what it threw, for HostCommunicator::agree.
/// @param work  of this rank alone, most of it on files: for a watchdog it may take long
/// @throws CommError if `work` does: there is nobody left to agree with
template <class Work>
std::string trouble_of(Work&& work, TroubleKind* kind = nullptr) {
  const PatientOperation on_files;
  const auto is = [kind](TroubleKind what) {
    if (kind != nullptr) *kind = what;
  };
  is(TroubleKind::kNone);
  try {
    work();
    return "";
  } catch (const CommError&) {
    throw;
  } catch (const IoError& error) {
    is(is_bad_medium(error) ? TroubleKind::kMedium : TroubleKind::kIo);
    return error.what();
  } catch (const DamageError& error) {
    is(TroubleKind::kDamage);
    return error.what();
  } catch (const std::exception& error) {
    is(TroubleKind::kOther);
    return message_or_thread_advice(error);
  }
}

}  // namespace pimoe
