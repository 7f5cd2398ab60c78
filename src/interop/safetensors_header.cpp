#include "base/errors.h"
#include "base/text.h"
#include "base/utf8.h"
#include "interop/safetensors.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <limits>
#include <set>
#include <utility>

namespace pimoe {
namespace {

struct DtypeBytes {
  const char* name;
  uint64_t bytes;
};
constexpr std::array<DtypeBytes, 17> kDtypes = {{{"BOOL", 1},
                                                 {"U8", 1},
                                                 {"I8", 1},
                                                 {"F8_E5M2", 1},
                                                 {"F8_E4M3", 1},
                                                 {"F8_E8M0", 1},
                                                 {"F8_E4M3FNUZ", 1},
                                                 {"F8_E5M2FNUZ", 1},
                                                 {"I16", 2},
                                                 {"U16", 2},
                                                 {"F16", 2},
                                                 {"BF16", 2},
                                                 {"I32", 4},
                                                 {"U32", 4},
                                                 {"F32", 4},
                                                 {"I64", 8},
                                                 {"F64", 8}}};
constexpr size_t kMostDimensions = 16;
constexpr const char* kMetadata = "__metadata__";

/// Reads the header event by event: no tree of a header of 100 MB is built, and what does not belong there ends the reading at once.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderReader(const std::string& name) : where_(name) {}

  std::map<std::string, SafetensorsEntry> take() { return std::move(tensors_); }

  bool start_object(std::size_t) override {
    ++depth_;
    if (depth_ == 1) return true;
    if (depth_ == 2 && field_.empty()) {
      fields_.clear();
      entry_ = {};
      return true;
    }
    refuse("has an object where none belongs");
  }
  bool end_object() override {
    if (depth_ == 2 && !in_metadata_) finish_tensor();
    if (depth_ == 2) tensor_.clear();
    in_metadata_ = false;
    --depth_;
    field_.clear();
    return true;
  }
  bool key(string_t& key) override {
    if (depth_ == 1) {
      tensor_ = key;
      field_.clear();
      if (key.empty()) refuse("has an empty name");
      in_metadata_ = key == kMetadata;
      if (tensors_.contains(key) || (in_metadata_ && std::exchange(had_metadata_, true))) refuse("is there twice");
      return true;
    }
    if (!fields_.insert(key).second) refuse(concat("has the key '", printable(key), "' twice"));
    if (!in_metadata_ && key != "dtype" && key != "shape" && key != "data_offsets") {
      refuse(concat("has the key '", printable(key), "', which the format does not know"));
    }
    field_ = key;
    return true;
  }
  bool string(string_t& value) override {
    if (depth_ != 2 || in_array_ || (!in_metadata_ && field_ != "dtype")) refuse_value("text");
    if (in_metadata_) return true;
    entry_.dtype = value;
    return true;
  }
  bool start_array(std::size_t) override {
    if (depth_ != 2 || in_metadata_ || in_array_ || (field_ != "shape" && field_ != "data_offsets")) refuse_value("a list");
    in_array_ = true;
    numbers_.clear();
    return true;
  }
  bool end_array() override {
    in_array_ = false;
    if (field_ == "shape") {
      entry_.shape.assign(numbers_.begin(), numbers_.end());
    } else {
      if (numbers_.size() != 2) refuse(concat("has data_offsets of ", numbers_.size(), " numbers, not 2"));
      entry_.begin = static_cast<uint64_t>(numbers_[0]);
      entry_.end = static_cast<uint64_t>(numbers_[1]);
    }
    return true;
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (!in_array_) refuse_value("a number");
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) refuse(concat(field_, " has a number that is too large"));
    if (numbers_.size() >= kMostDimensions) refuse(concat(field_, " has more than ", kMostDimensions, " numbers"));
    numbers_.push_back(static_cast<int64_t>(value));
    return true;
  }
  bool number_integer(number_integer_t value) override { refuse(concat(field_, " has the number ", value, ", which is negative")); }
  bool number_float(number_float_t, const string_t& text) override {
    refuse(concat(field_, " has ", printable(text), ", which is no whole number that fits 64 bits"));
  }
  bool null() override { refuse_value("null"); }
  bool boolean(bool) override { refuse_value("true or false"); }
  bool binary(binary_t&) override { refuse_value("binary data"); }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception&) override {
    throw DataError(concat(where_, ": its header is not JSON, from byte ", position, " of it on"));
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    if (tensor_.empty()) throw DataError(concat(where_, ": its header ", what));
    throw DataError(concat(where_, ": '", printable(tensor_), "' ", what));
  }
  [[noreturn]] void refuse_value(const char* what) const {
    refuse(field_.empty() ? concat("is ", what, " where an object belongs")
                          : concat("has ", what, " in ", printable(field_), ", where something else belongs"));
  }

  void finish_tensor() {
    for (const char* needed : {"dtype", "shape", "data_offsets"}) {
      if (!fields_.contains(needed)) refuse(concat("has no ", needed));
    }
    const auto* const dtype =
        std::find_if(kDtypes.begin(), kDtypes.end(), [&](const DtypeBytes& each) { return entry_.dtype == each.name; });
    if (dtype == kDtypes.end()) refuse(concat("has the dtype '", printable(entry_.dtype), "', which is not known here"));
    uint64_t bytes = dtype->bytes;
    for (const int64_t length : entry_.shape) {
      if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(length), &bytes)) refuse("has a shape that is too large");
    }
    if (bytes > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) refuse("has a shape that is too large");
    if (entry_.begin > entry_.end) {
      refuse(concat("has data_offsets [", entry_.begin, ", ", entry_.end, "], whose end is before their begin"));
    }
    if (entry_.end - entry_.begin != bytes) {
      std::vector<std::string> shape;
      for (const int64_t length : entry_.shape) shape.push_back(concat(length));
      refuse(concat("is [", join(shape, ", "), "] in ", entry_.dtype, ", which is ", bytes, " bytes, and has data_offsets of ",
                    entry_.end - entry_.begin));
    }
    tensors_[tensor_] = entry_;
  }

  std::string where_;
  std::map<std::string, SafetensorsEntry> tensors_;
  int depth_ = 0;
  bool in_metadata_ = false;
  bool had_metadata_ = false;
  bool in_array_ = false;
  std::string tensor_;  ///< of the object that is open
  std::string field_;
  std::set<std::string> fields_;
  std::vector<int64_t> numbers_;
  SafetensorsEntry entry_;
};

/// Every byte belongs to one tensor.
void require_cover(const std::map<std::string, SafetensorsEntry>& tensors, uint64_t data_bytes, const std::string& where) {
  using Named = std::pair<const std::string, SafetensorsEntry>;
  std::vector<const Named*> in_order;
  for (const Named& each : tensors) in_order.push_back(&each);
  std::sort(in_order.begin(), in_order.end(), [](const Named* a, const Named* b) {
    return std::pair(a->second.begin, a->second.end) < std::pair(b->second.begin, b->second.end);
  });
  uint64_t covered = 0;
  const Named* before = nullptr;
  for (const Named* each : in_order) {
    const SafetensorsEntry& entry = each->second;
    if (entry.end > data_bytes) {
      throw DataError(
          concat(where, ": '", printable(each->first), "' ends at byte ", entry.end, " of the data, of which the file has ", data_bytes));
    }
    if (entry.begin < covered) {
      throw DataError(concat(where, ": '", printable(each->first), "' begins at byte ", entry.begin, " of the data, inside '",
                             printable(before->first), "'"));
    }
    if (entry.begin > covered)
      throw DataError(concat(where, ": bytes ", covered, " to ", entry.begin - 1, " of the data belong to no tensor"));
    covered = entry.end;
    before = each;
  }
  if (covered < data_bytes) throw DataError(concat(where, ": bytes ", covered, " to ", data_bytes - 1, " of the data belong to no tensor"));
}

}  // namespace

int64_t SafetensorsEntry::numel() const {
  int64_t count = 1;
  for (const int64_t length : shape) count *= length;
  return count;
}

std::map<std::string, SafetensorsEntry> parse_safetensors_header(std::string_view header, uint64_t data_bytes, const std::string& name) {
  if (header.empty() || header[0] != '{') throw DataError(concat(name, ": its header does not begin with '{': it is no safetensors file"));
  HeaderReader reader(name);
  nlohmann::json::sax_parse(header, &reader);
  std::map<std::string, SafetensorsEntry> tensors = reader.take();
  require_cover(tensors, data_bytes, name);
  return tensors;
}

}  // namespace pimoe
