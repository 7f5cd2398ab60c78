/// print_fields: the tree of config structs as YAML that load_fields reads back to the same values.

#include <algorithm>

#include "base/config_fields.h"
#include "base/config_scalar.h"
#include "base/number_text.h"
#include "base/text.h"

namespace pimoe {
namespace {

class ConfigPrinter : public FieldVisitor {
 public:
  std::string text_of_all() && { return std::move(out_); }

  void flag(const char* name, bool& value, const char* help) override { line(name, value ? "true" : "false", help); }
  void integer(const char* name, int64_t& value, Range, const char* help) override { line(name, std::to_string(value), help); }
  void integer_or_auto(const char* name, int64_t& value, Range, const char* help) override {
    line(name, value == 0 ? "auto" : std::to_string(value), help);
  }
  void number(const char* name, double& value, Range, const char* help) override { line(name, shortest(value), help); }
  void text(const char* name, std::string& value, const char* help) override { line(name, yaml_text(value), help); }
  void path(const char* name, std::filesystem::path& value, const char* help) override { line(name, yaml_text(value.string()), help); }
  void word_list(const char* name, std::vector<std::string>& values, const std::vector<std::string>& words, const char* help) override {
    line(name, concat("[", join(values, ", "), "]"), concat("of ", join(words, ", "), "; ", help));
  }

 protected:
  void word_choice(const char* name, size_t& index, const std::vector<std::string>& words, const char* help) override {
    line(name, words.at(index), concat(join(words, " | "), "; ", help));
  }
  void begin_nested(const char* name) override {
    out_ += concat(line_begin(), name, ":\n");
    indent_ += "  ";
  }
  void end_nested() override { dedent(); }
  std::optional<size_t> begin_list(const char* name, size_t size, const char* help) override {
    out_ += concat(line_begin(), name, ":", size == 0 ? " []" : "", comment(help), "\n");
    indent_ += "  ";
    return std::nullopt;
  }
  void begin_element(size_t index) override {
    indent_ += "  ";
    dash_pending_ = true;
    repeats_.push_back(index > 0);
  }
  void end_element() override {
    if (dash_pending_) out_ += concat(line_begin(), "{}\n");
    repeats_.pop_back();
    dedent();
  }
  void end_list() override { dedent(); }

 private:
  /// @returns the indentation, with the dash before the first key of an element.
  std::string line_begin() {
    std::string begin = indent_;
    if (dash_pending_) begin[begin.size() - 2] = '-';
    dash_pending_ = false;
    return begin;
  }
  /// The first element of a list has explained the keys of all of them.
  std::string comment(const std::string& help) const {
    const bool explained = std::find(repeats_.begin(), repeats_.end(), true) != repeats_.end();
    return help.empty() || explained ? "" : "  # " + help;
  }
  void line(const char* name, const std::string& value, const std::string& help) {
    out_ += concat(line_begin(), name, ": ", value, comment(help), "\n");
  }
  void dedent() { indent_.resize(indent_.size() - 2); }

  std::string indent_;
  bool dash_pending_ = false;
  std::vector<bool> repeats_;  ///< of each list that is being printed: whether this is a later element
  std::string out_;
};

}  // namespace

std::string print_fields(const std::function<void(FieldVisitor&)>& fields) {
  ConfigPrinter printer;
  fields(printer);
  return std::move(printer).text_of_all();
}

}  // namespace pimoe
