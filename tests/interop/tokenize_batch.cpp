/// Encodes and decodes many texts by one tokenizer, for tokenizer_differences.py: `tokenize_batch TOKENIZER < TEXTS > ANSWERS`.
///
///     TEXTS     u32 bytes | the text, again and again, little-endian
///     ANSWERS   for each text: u32 count | i32 ids | u32 bytes | the ids decoded

#include <cstdint>
#include <iostream>
#include <string>
#include <vector>

#include "base/errors.h"
#include "data/tokenizer.h"

namespace {

template <class Value>
bool read(Value* values, size_t count) {
  return static_cast<bool>(std::cin.read(reinterpret_cast<char*>(values), static_cast<std::streamsize>(count * sizeof(Value))));
}

template <class Value>
void write(const Value* values, size_t count) {
  const auto size = static_cast<uint32_t>(count);
  std::cout.write(reinterpret_cast<const char*>(&size), sizeof size);
  std::cout.write(reinterpret_cast<const char*>(values), static_cast<std::streamsize>(count * sizeof(Value)));
}

}  // namespace

int main(int count, char** arguments) try {
  if (count != 2) {
    std::cerr << "usage: tokenize_batch TOKENIZER < TEXTS > ANSWERS\n";
    return 64;
  }
  std::ios::sync_with_stdio(false);
  const pimoe::Tokenizer tokenizer{std::filesystem::path(arguments[1])};
  uint32_t bytes = 0;
  while (read(&bytes, 1)) {
    std::string text(bytes, '\0');
    if (!read(text.data(), bytes)) return 65;
    const std::vector<int32_t> ids = tokenizer.encode(text);
    const std::string decoded = tokenizer.decode(ids);
    write(ids.data(), ids.size());
    write(decoded.data(), decoded.size());
  }
  return 0;
} catch (const pimoe::Error& error) {
  std::cerr << error.what() << "\n";
  return 65;
}
