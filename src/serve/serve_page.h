#pragma once

#include "serve/http_message.h"

namespace pimoe {

/// @returns the page at /: one HTML document that asks nothing but this server (page/serve.html, .css, .js, built into the binary). Its
///          Content-Security-Policy lets run and style what is in the page and nothing else.
HttpResponse serve_page();

/// The page's parts, built in (cmake/EmbedFiles.cmake).
struct ServePageParts {
  const char* html;
  const char* style;
  const char* script;
};
ServePageParts serve_page_parts();

/// @returns the SHA-256 of `text` as policies name it: "sha256-BASE64"
std::string policy_hash(const std::string& text);

}  // namespace pimoe
