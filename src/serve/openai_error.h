#pragma once

#include "base/errors.h"
#include "serve/http_message.h"

#include <string>

namespace pimoe {

/// A request that is refused, in the words of OpenAI's API: {"error": {"message", "type", "param", "code"}}.
class OpenAiError : public Error {
 public:
  /// @param param  the member of the request that is wrong; empty: none  @param code  a name for programs; empty: none
  explicit OpenAiError(const std::string& message, std::string param = "", std::string code = "", int status = 400)
      : Error(message), param_(std::move(param)), code_(std::move(code)), status_(status) {}

  int status() const { return status_; }
  const std::string& code() const { return code_; }
  std::string body() const;
  HttpResponse response() const;

 private:
  std::string param_;
  std::string code_;
  int status_;
};

}  // namespace pimoe
