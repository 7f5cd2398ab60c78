#include "serve/serve_page.h"

#include "base/digest.h"
#include "base/text.h"

#include <string_view>

namespace pimoe {
namespace {

std::string with(std::string text, std::string_view mark, const std::string& replacement) {
  return text.replace(text.find(mark), mark.size(), replacement);
}

std::string base64(const std::string& bytes) {
  static constexpr std::string_view kLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (size_t begin = 0; begin < bytes.size(); begin += 3) {
    uint32_t group = 0;
    for (size_t index = 0; index < 3; ++index) {
      group = (group << 8) | (begin + index < bytes.size() ? static_cast<unsigned char>(bytes[begin + index]) : 0u);
    }
    for (size_t index = 0; index < 4; ++index) {
      const bool is_padding = begin + index > bytes.size();
      text += is_padding ? '=' : kLetters[(group >> (18 - 6 * index)) & 63];
    }
  }
  return text;
}

}  // namespace

HttpResponse serve_page() {
  const ServePageParts parts = serve_page_parts();
  HttpResponse page;
  page.content_type = "text/html; charset=utf-8";
  page.body = with(with(parts.html, "@STYLE@", parts.style), "@SCRIPT@", parts.script);
  page.headers = {{"Content-Security-Policy",
                   concat("default-src 'none'; style-src '", policy_hash(parts.style), "'; script-src '", policy_hash(parts.script),
                          "'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")},
                  {"Referrer-Policy", "no-referrer"}};
  return page;
}

std::string policy_hash(const std::string& text) {
  const std::string digest = sha256(text.data(), text.size());
  std::string bytes;
  for (size_t index = 0; index < digest.size(); index += 2) bytes += static_cast<char>(std::stoi(digest.substr(index, 2), nullptr, 16));
  return concat("sha256-", base64(bytes));
}

}  // namespace pimoe
