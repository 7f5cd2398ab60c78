#include "serve/text_stream.h"

#include "base/utf8.h"

#include <algorithm>

namespace pimoe {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

/// @returns whether more bytes could make a character of these.
bool is_begun_character(std::string_view bytes) {
  static constexpr std::string_view kEnds[] = {"\x80", "\x80\x80", "\x80\x80\x80", "\x90\x80\x80", "\xA0\x80"};
  return std::any_of(std::begin(kEnds), std::end(kEnds), [&](std::string_view end) {
    const std::string whole = std::string(bytes) + std::string(end);
    return bytes.size() < 4 && whole.size() <= 4 && valid_utf8_prefix(whole) == whole.size();
  });
}

/// @returns how many bytes one mark stands for, at the beginning of what is no character: the longest beginning of one, or a byte.
/// @source The Unicode Standard 15.0, section 3.9, "U+FFFD Substitution of Maximal Subparts"; so do `generate --json` and other decoders
size_t broken_bytes(std::string_view bytes) {
  for (size_t count = std::min<size_t>(3, bytes.size()); count > 1; --count) {
    if (is_begun_character(bytes.substr(0, count))) return count;
  }
  return 1;
}

/// Moves text from the beginning of `bytes`. @param all  a character that has begun at their end will not be completed
std::string take_text(std::string& bytes, bool all) {
  std::string text;
  std::string_view left = bytes;
  while (!left.empty()) {
    const size_t good = valid_utf8_prefix(left);
    text += left.substr(0, good);
    left.remove_prefix(good);
    if (left.empty() || (!all && is_begun_character(left))) break;
    text += kReplacement;
    left.remove_prefix(broken_bytes(left));
  }
  bytes.erase(0, bytes.size() - left.size());
  return text;
}

}  // namespace

std::string well_formed(std::string_view bytes) {
  std::string left(bytes);
  return take_text(left, /*all=*/true);
}

std::string TextStream::add(std::string_view bytes) {
  if (stopped_) return "";
  pending_ += bytes;
  size_t first = std::string::npos;
  for (const std::string& stop : stops_) first = std::min(first, pending_.find(stop));
  if (first != std::string::npos) {
    stopped_ = true;
    pending_.resize(first);
    return take_text(pending_, /*all=*/true);
  }
  size_t held = 0;  // the longest end that a stop text may go on from
  for (const std::string& stop : stops_) {
    for (size_t length = std::min(stop.size() - 1, pending_.size()); length > held; --length) {
      if (pending_.ends_with(std::string_view(stop).substr(0, length))) held = length;
    }
  }
  std::string certain = pending_.substr(0, pending_.size() - held);
  std::string text = take_text(certain, /*all=*/held > 0);
  pending_ = certain + pending_.substr(pending_.size() - held);
  return text;
}

std::string TextStream::rest() { return stopped_ ? "" : take_text(pending_, /*all=*/true); }

}  // namespace pimoe
