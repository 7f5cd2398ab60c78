#include "serve/openai_error.h"

#include "base/utf8.h"

#include <nlohmann/json.hpp>

namespace pimoe {
namespace {

const char* type_of(int status) {
  switch (status) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 429: return "rate_limit_error";
    default: return status < 500 ? "invalid_request_error" : "server_error";
  }
}

nlohmann::ordered_json text_or_null(const std::string& text) { return text.empty() ? nullptr : nlohmann::ordered_json(text); }

}  // namespace

std::string OpenAiError::body() const {
  const nlohmann::ordered_json error = {{"message", printable(what())},
                                        {"type", type_of(status_)},
                                        {"param", text_or_null(printable(param_))},
                                        {"code", text_or_null(code_)}};
  return nlohmann::ordered_json{{"error", error}}.dump() + "\n";
}

HttpResponse OpenAiError::response() const {
  HttpResponse response;
  response.status = status_;
  response.body = body();
  if (status_ == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

}  // namespace pimoe
