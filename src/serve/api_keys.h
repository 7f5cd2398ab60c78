#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace pimoe {

/// The keys that clients show. A file of lines
///
///     name key [requests a minute]
///
/// with blank lines and lines that begin with `#` between them. A name is for logs and metrics. Keys themselves are not kept: their SHA-256 is.
class ApiKeys {
 public:
  struct Holder {
    std::string name;
    std::optional<double> requests_per_minute;  ///< nothing: as for everyone
  };

  /// No keys: everyone may ask.
  ApiKeys() = default;
  /// @throws DataError for a file that is not there or has no key, a key of fewer than 16 or more than 512 characters or of other than printable
  ///         ASCII, a name or a key twice; messages name lines and never a key. IoError
  explicit ApiKeys(const std::filesystem::path& file);
  ApiKeys(const std::string& content, const std::string& name);

  bool empty() const { return holders_.empty(); }
  const std::vector<Holder>& holders() const { return holders_; }

  /// @param authorization  the header: "Bearer KEY"
  /// @returns the index of its holder, nothing for a wrong or missing key; takes as long for every key
  std::optional<size_t> find(const std::string& authorization) const;

 private:
  std::vector<Holder> holders_;
  std::vector<std::string> digests_;
};

}  // namespace pimoe
