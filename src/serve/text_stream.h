#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace pimoe {

/// @returns `bytes` with a U+FFFD for each piece that is no UTF-8: a character that is not completed, or a byte that begins none
std::string well_formed(std::string_view bytes);

/// Turns the bytes of tokens into text that may be shown: whole characters, nothing of a stop text. Bytes that are no UTF-8 become U+FFFD, as in
/// well_formed, whatever parts they come in.
class TextStream {
 public:
  /// @param stops  none empty
  explicit TextStream(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  /// @returns what is certain by now, and has not been returned before
  std::string add(std::string_view bytes);
  /// A stop text has come; it and what follows are cut off.
  bool stopped() const { return stopped_; }
  /// @returns what was held back, where no stop text has come
  std::string rest();

 private:
  std::vector<std::string> stops_;
  std::string pending_;
  bool stopped_ = false;
};

}  // namespace pimoe
