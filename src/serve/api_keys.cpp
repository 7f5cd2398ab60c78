#include "serve/api_keys.h"

#include "base/digest.h"
#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"
#include "base/utf8.h"

#include <algorithm>
#include <cmath>
#include <sstream>

namespace pimoe {
namespace {

constexpr uint64_t kMostFileBytes = 1 << 20;
constexpr size_t kShortestKey = 16;
constexpr size_t kLongestKey = 512;
constexpr size_t kLongestName = 64;

bool is_name(const std::string& text) {
  return text.size() <= kLongestName && std::all_of(text.begin(), text.end(), [](unsigned char letter) {
           return std::isalnum(letter) != 0 || letter == '-' || letter == '_' || letter == '.' || letter == '@';
         });
}

std::string digest_of(const std::string& key) { return sha256(key.data(), key.size()); }

/// Without a branch that depends on what is compared. Both are digests of the same length.
bool are_equal(const std::string& one, const std::string& other) {
  unsigned char difference = 0;
  for (size_t index = 0; index < one.size(); ++index) difference = static_cast<unsigned char>(difference | (one[index] ^ other[index]));
  return difference == 0;
}

std::string content_of(const std::filesystem::path& file) {
  if (!is_there(file))
    throw DataError(concat("there is no ", file.string(), ": a file of keys has lines of: name key [requests a minute]"));
  return read_file(file, kMostFileBytes);
}

double rate_of(const std::string& text, const std::string& place) {
  char* end = nullptr;
  const double rate = std::strtod(text.c_str(), &end);
  if (end != text.c_str() + text.size() || !(rate > 0 && rate <= 1e6))
    throw DataError(concat(place, ": requests a minute must be a number above 0, at most a million"));
  return rate;
}

}  // namespace

ApiKeys::ApiKeys(const std::filesystem::path& file) : ApiKeys(content_of(file), file.string()) {}

ApiKeys::ApiKeys(const std::string& content, const std::string& name) {
  const std::vector<std::string> lines = split(content, '\n');
  for (size_t index = 0; index < lines.size(); ++index) {
    std::istringstream words(lines[index]);
    std::vector<std::string> parts;
    for (std::string word; words >> word;) parts.push_back(word);
    if (parts.empty() || parts[0].starts_with('#')) continue;
    const std::string place = concat(name, ":", index + 1);
    if (parts.size() < 2 || parts.size() > 3) throw DataError(concat(place, ": must be: name key [requests a minute]"));
    if (!is_name(parts[0])) throw DataError(concat(place, ": a name has at most ", kLongestName, " letters, digits, and - _ . @"));
    const std::string& key = parts[1];
    if (key.size() < kShortestKey || key.size() > kLongestKey) {
      throw DataError(concat(place, ": the key has ", key.size(), " characters: it must have ", kShortestKey, " to ", kLongestKey,
                             " (openssl rand -hex 32)"));
    }
    if (std::any_of(key.begin(), key.end(), [](unsigned char letter) { return letter <= ' ' || letter > '~'; })) {
      throw DataError(concat(place, ": the key has a character other than printable ASCII"));
    }
    const std::string digest = digest_of(key);
    if (std::find(digests_.begin(), digests_.end(), digest) != digests_.end())
      throw DataError(concat(place, ": the key is there already, further up"));
    for (const Holder& holder : holders_) {
      if (holder.name == parts[0]) throw DataError(concat(place, ": the name ", parts[0], " is there already, further up"));
    }
    holders_.push_back({parts[0], parts.size() == 3 ? std::optional(rate_of(parts[2], place)) : std::nullopt});
    digests_.push_back(digest);
  }
  if (holders_.empty()) throw DataError(concat(name, ": has no key: it must have lines of: name key [requests a minute]"));
}

std::optional<size_t> ApiKeys::find(const std::string& authorization) const {
  static constexpr std::string_view kScheme = "bearer ";
  std::string scheme = authorization.substr(0, kScheme.size());
  std::transform(scheme.begin(), scheme.end(), scheme.begin(),
                 [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
  if (scheme != kScheme) return std::nullopt;
  size_t begin = authorization.find_first_not_of(' ', kScheme.size());
  const std::string shown = begin == std::string::npos ? "" : authorization.substr(begin, kLongestKey + 1);
  const std::string digest = digest_of(shown);
  std::optional<size_t> found;
  for (size_t index = 0; index < digests_.size(); ++index) {
    if (are_equal(digest, digests_[index])) found = index;
  }
  return found;
}

}  // namespace pimoe
