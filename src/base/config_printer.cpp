/// print_fields: the tree of config structs as YAML that load_fields reads back to the same values.

#include "base/config_fields.h"
#include "base/config_scalar.h"
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

 protected:
  void word_choice(const char* name, size_t& index, const std::vector<std::string>& words, const char* help) override {
    line(name, words.at(index), concat(join(words, " | "), "; ", help));
  }
  void begin_nested(const char* name) override {
    out_ += concat(indent_, name, ":\n");
    indent_ += "  ";
  }
  void end_nested() override { indent_.resize(indent_.size() - 2); }

 private:
  void line(const char* name, const std::string& value, const std::string& help) {
    out_ += concat(indent_, name, ": ", value, help.empty() ? "" : "  # ", help, "\n");
  }

  std::string indent_;
  std::string out_;
};

}  // namespace

std::string print_fields(const std::function<void(FieldVisitor&)>& fields) {
  ConfigPrinter printer;
  fields(printer);
  return std::move(printer).text_of_all();
}

}  // namespace pimoe
