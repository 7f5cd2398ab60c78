#include "parallel/agreement.h"

#include "base/errors.h"
#include "base/progress.h"
#include "base/text.h"

#include <algorithm>
#include <cstdlib>

namespace pimoe {
namespace {

/// Nothing where `work` returned; else a letter for the type, the errno of an IoError, a blank, and the text.
std::string told_of(const std::function<void()>& work) {
  const PatientOperation on_files;
  try {
    work();
    return "";
  } catch (const CommError&) {  // there is nobody left to tell
    throw;
  } catch (const UsageError& error) {
    return concat("u ", error.what());
  } catch (const ConfigError& error) {
    return concat("c ", error.what());
  } catch (const DataError& error) {
    return concat("d ", error.what());
  } catch (const CheckpointError& error) {
    return concat("k ", error.what());
  } catch (const IoError& error) {
    return concat("i", error.code(), " ", error.what());
  } catch (const std::exception& error) {
    return concat("e ", error.what());
  }
}

}  // namespace

void do_together(const HostCommunicator& ranks, const std::function<void()>& work) {
  if (ranks.size() == 1) return work();
  const std::string mine = told_of(work);
  ranks.patient_barrier();
  const std::vector<std::string> told = ranks.all_gather_text(mine);
  const auto first = std::find_if(told.begin(), told.end(), [](const std::string& text) { return !text.empty(); });
  if (first == told.end()) return;
  const bool all_say_so = std::all_of(told.begin(), told.end(), [&](const std::string& text) { return text == *first; });
  const size_t blank = first->find(' ');
  const std::string text = concat(all_say_so ? "" : concat("rank ", first - told.begin(), ": "), first->substr(blank + 1));
  switch (first->front()) {
    case 'u': throw UsageError(text);
    case 'c': throw ConfigError(text);
    case 'd': throw DataError(text);
    case 'k': throw CheckpointError(text);
    case 'i': throw IoError(text, std::atoi(first->c_str() + 1));
    default: throw Error(text);
  }
}

}  // namespace pimoe
