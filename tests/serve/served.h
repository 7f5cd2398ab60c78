#pragma once

/// The server with a scripted source behind it, on a port of its own.

#include "data/tokenizer.h"
#include "serve/client.h"
#include "serve/completion_service.h"
#include "serve/http_server.h"
#include "serve/scripted_source.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <thread>

namespace pimoe {

inline const Tokenizer& small_tokenizer() {
  static const Tokenizer tokenizer = [] {
    std::vector<std::string> lines;
    for (int line = 0; line < 500; ++line) lines.push_back(concat("the ", line % 7, " cats sat on ", line % 11, " mats"));
    return Tokenizer(train_tokenizer(lines, 290), "small.model");
  }();
  return tokenizer;
}

inline ChatTemplate small_template() {
  return ChatTemplate(
      "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% "
      "endif %}",
      "small.jinja", nlohmann::ordered_json::object());
}

class Served : public testing::Test {
 protected:
  /// @param keys  content of a key file; empty: none
  void serve(const std::string& keys = "", bool has_template = true) {
    if (!keys.empty()) keys_ = ApiKeys(keys, "keys");
    if (has_template) template_.emplace(small_template());
    texts_.emplace(small_tokenizer(), template_ ? &*template_ : nullptr, 300, 4096);
    facts_.model = "small";
    facts_.limits.vocabulary = 300;
    service_.emplace(facts_, *texts_, keys_, source_, log_);
    server_.emplace(HttpPort("127.0.0.1", 0), limits_, *service_, log_);
    service_->set_counts([this] { return server_->counts(); });
  }
  void TearDown() override {
    if (server_) server_->stop(5);
  }
  Client client() const { return Client(server_->port()); }
  Client::Response post(const std::string& path, const std::string& body, const std::string& headers = "") const {
    Client one = client();
    one.post(path, body, headers);
    return one.response();
  }
  Client::Response get(const std::string& path, const std::string& headers = "") const {
    Client one = client();
    one.get(path, headers);
    return one.response();
  }
  /// Waits until something holds; ten seconds are far more than it takes.
  template <class Condition>
  static bool comes_true(Condition condition) {
    for (int tries = 0; tries < 1000; ++tries) {
      if (condition()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }
  static nlohmann::json json(const std::string& text) { return nlohmann::json::parse(text, nullptr, false); }
  static std::string error_code(const Client::Response& response) { return json(response.body).at("error").at("code"); }
  /// The data of a stream's events.
  static std::vector<std::string> events(const std::string& body) {
    std::vector<std::string> found;
    for (const std::string& line : split(body, '\n')) {
      if (line.starts_with("data: ")) found.push_back(line.substr(6));
    }
    return found;
  }

  Logger log_{1};  // no info lines on the terminal
  HttpLimits limits_;
  CompletionFacts facts_;
  ApiKeys keys_;
  ScriptedSource source_;
  std::optional<ChatTemplate> template_;
  std::optional<CompletionTexts> texts_;
  std::optional<CompletionService> service_;
  std::optional<HttpServer> server_;
};

}  // namespace pimoe
