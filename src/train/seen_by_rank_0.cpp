#include "train/seen_by_rank_0.h"

#include "base/errors.h"
#include "base/text.h"

#include <cerrno>
#include <filesystem>

namespace pimoe {

std::string seen_by_rank_0(const HostCommunicator& ranks, const std::function<std::string()>& look) {
  std::string told;  // what it is, then the text
  if (ranks.rank() == 0) {
    try {
      told = "found " + look();
    } catch (const ConfigError& error) {
      told = concat("config ", error.what());
    } catch (const IoError& error) {
      told = concat("io ", error.what());
    } catch (const std::filesystem::filesystem_error& error) {
      told = concat("io ", error.what());
    } catch (const Error& error) {  // the contract: rank 0's trouble is everybody's
      told = concat("checkpoint ", error.what());
    }
  }
  told = ranks.broadcast_text(told, 0);
  const size_t blank = told.find(' ');
  const std::string kind = told.substr(0, blank);
  const std::string text = told.substr(blank + 1);
  if (kind == "config") throw ConfigError(text);
  if (kind == "io") throw IoError(text, EIO);
  if (kind == "checkpoint") throw CheckpointError(text);
  return text;
}

}  // namespace pimoe
