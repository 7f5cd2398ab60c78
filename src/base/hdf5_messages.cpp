#include "base/hdf5_messages.h"

#include "base/errors.h"
#include "base/text.h"

#include <algorithm>
#include <array>
#include <set>
#include <utility>

namespace pimoe {
namespace {

enum Type : uint64_t {
  kNil = 0x00,
  kDataspace = 0x01,
  kNumberFormat = 0x03,
  kOldFillValue = 0x04,
  kFillValue = 0x05,
  kExternalFiles = 0x07,
  kLayout = 0x08,
  kFilters = 0x0B,
  kAttribute = 0x0C,
  kModificationTime = 0x12,
  kContinuation = 0x10,
  kSymbolTable = 0x11,
};
constexpr std::array kKnownTypes = {kNil,    kDataspace, kNumberFormat, kOldFillValue, kFillValue,   kExternalFiles,
                                    kLayout, kFilters,   kAttribute,    kContinuation, kSymbolTable, kModificationTime};
constexpr std::array kSeveralInOneHeader = {kNil, kAttribute, kContinuation};

constexpr uint64_t kHeaderBytes = 16;
constexpr uint64_t kMessageHeaderBytes = 8;
constexpr uint64_t kShared = 0x02;      // a flag: the content is elsewhere
constexpr uint64_t kKnownFlags = 0x05;  // constant, and never to be shared
constexpr uint64_t kMostDimensions = 32;
constexpr uint64_t kMostElements = INT64_MAX / 8;
constexpr uint64_t kUnlimited = UINT64_MAX;
constexpr uint64_t kShuffle = 2;
constexpr uint64_t kFletcher32 = 3;
constexpr uint64_t kFletcher32Bytes = 4;

template <class Types>
bool contains(const Types& types, uint64_t type) {
  return std::find(types.begin(), types.end(), type) != types.end();
}

uint64_t padded_to_8(uint64_t bytes) { return (bytes + 7) / 8 * 8; }

/// The content of a message, or a part of it, read from its front.
class Content {
 public:
  Content(const Hdf5View& view, uint64_t at, uint64_t bytes, const char* what) : view_(view), at_(at), end_(at + bytes), what_(what) {}
  Content(const Hdf5View& view, const Hdf5Message& message, const char* what) : Content(view, message.at, message.bytes, what) {}

  uint64_t at() const { return at_; }
  uint64_t rest() const { return end_ - at_; }
  uint64_t number(uint64_t bytes) {
    const uint64_t place = skip(bytes);
    return view_.number(place, bytes);
  }
  /// @returns where what was skipped begins.
  uint64_t skip(uint64_t bytes) {
    if (bytes > rest()) refuse(concat("is cut: ", bytes, " bytes are wanted and ", rest(), " are left"));
    at_ += bytes;
    return at_ - bytes;
  }
  /// Skips a text that ends with a zero byte within `bytes`.
  void skip_text(uint64_t bytes) { (void)view_.text(skip(bytes), bytes); }
  Content part(uint64_t bytes, const char* what) {
    const uint64_t place = skip(bytes);
    return {view_, place, bytes, what};
  }
  void expect(uint64_t bytes, uint64_t value, const char* field) {
    const uint64_t found = number(bytes);
    if (found != value) refuse(concat(field, " (", found, ") must be ", value));
  }
  [[noreturn]] void refuse(const std::string& rule) const { view_.refuse(at_, concat(what_, ": ", rule)); }

 private:
  const Hdf5View& view_;
  uint64_t at_;
  uint64_t end_;
  const char* what_;
};

struct Dataspace {
  uint64_t dimensions = 0;
  uint64_t count = 1;
};

Dataspace read_dataspace(Content content) {
  content.expect(1, 1, "version");
  Dataspace space;
  space.dimensions = content.number(1);
  const uint64_t flags = content.number(1);
  content.skip(5);
  if (space.dimensions > kMostDimensions) content.refuse(concat("dimensions (", space.dimensions, ") must be at most ", kMostDimensions));
  if (flags > 1) content.refuse(concat("flags (", flags, ") must be 0 or 1"));
  std::vector<uint64_t> lengths;
  for (uint64_t i = 0; i < space.dimensions; ++i) {
    lengths.push_back(content.number(8));
    if (__builtin_mul_overflow(space.count, lengths.back(), &space.count) || space.count > kMostElements) {
      content.refuse("more elements than can be counted");
    }
  }
  for (uint64_t i = 0; flags == 1 && i < space.dimensions; ++i) {
    const uint64_t most = content.number(8);
    if (most != kUnlimited && most < lengths[i]) content.refuse(concat("longest length (", most, ") must not be below ", lengths[i]));
  }
  return space;
}

/// @returns the bytes of an element: a whole number, a floating-point number or a text of fixed length.
uint64_t read_number_format(Content content) {
  enum : uint64_t { kWhole = 0, kFloating = 1, kText = 3 };
  const uint64_t kind_and_version = content.number(1);
  const uint64_t kind = kind_and_version & 0x0F;
  if (kind_and_version >> 4 != 1) content.refuse(concat("version (", kind_and_version >> 4, ") must be 1"));
  if (kind != kWhole && kind != kFloating && kind != kText) {
    content.refuse(concat("class ", kind, "; only numbers and texts of fixed length are read"));
  }
  const uint64_t bits = content.number(3);
  const uint64_t bytes = content.number(4);
  if (kind == kText) {
    if (bytes == 0 || (bits & 0x0F) > 2 || bits >> 8 != 0 || ((bits >> 4) & 0x0F) > 1) content.refuse("a text of no known kind");
    return bytes;
  }
  if (bytes != 1 && bytes != 2 && bytes != 4 && bytes != 8) content.refuse(concat("a number has 1, 2, 4 or 8 bytes, not ", bytes));
  content.expect(2, 0, "first bit");
  content.expect(2, 8 * bytes, "bits");
  if (kind == kWhole) {
    if ((bits & ~uint64_t{0x09}) != 0) content.refuse(concat("flags (", bits, ") of a whole number"));
    return bytes;
  }
  const uint64_t exponent_at = content.number(1);
  const uint64_t exponent_bits = content.number(1);
  const uint64_t mantissa_at = content.number(1);
  const uint64_t mantissa_bits = content.number(1);
  content.skip(4);  // the exponent's bias
  const uint64_t sign_at = bits >> 8;
  // Sign, exponent and mantissa side by side, as every format of IEEE 754 has them.
  const bool is_usual = (bits & 0xFE) == 0x20 && exponent_bits > 0 && mantissa_at == 0 && mantissa_bits > 0 &&
                        exponent_at == mantissa_bits && sign_at == exponent_at + exponent_bits && sign_at + 1 == 8 * bytes;
  if (!is_usual) content.refuse("a floating-point number of no usual format");
  return bytes;
}

/// @returns the bytes of the value, 0 where it is not given.
uint64_t read_fill_value(Content content) {
  const uint64_t version = content.number(1);
  if (version != 1 && version != 2) content.refuse(concat("version (", version, ") must be 1 or 2"));
  const uint64_t allocated = content.number(1);
  const uint64_t written = content.number(1);
  const uint64_t defined = content.number(1);
  if (allocated > 3 || written > 2 || defined > 1) content.refuse("times and flags that are not known");
  if (version == 2 && defined == 0) return 0;
  const uint64_t bytes = content.number(4);
  content.skip(bytes);
  return bytes;
}

/// @returns the filters of a dataset whose elements have `element_bytes`, in order.
std::vector<uint64_t> read_filters(Content content, uint64_t element_bytes, const std::string& label) {
  content.expect(1, 1, "version");
  const uint64_t count = content.number(1);
  content.skip(6);
  std::vector<uint64_t> filters;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t filter = content.number(2);
    if (filter != kFletcher32 && filter != kShuffle) {
      throw Error(concat(label, " uses filter ", filter, "; only fletcher32 and shuffle are read"));
    }
    if (contains(filters, filter)) content.refuse(concat("filter ", filter, " is there twice"));
    filters.push_back(filter);
    const uint64_t name_bytes = content.number(2);
    const uint64_t flags = content.number(2);
    const uint64_t values = content.number(2);
    if (flags > 1) content.refuse(concat("flags of a filter (", flags, ") must be 0 or 1"));
    if (name_bytes % 8 != 0) content.refuse(concat("the length of a filter's name (", name_bytes, ") must be a multiple of 8"));
    if (name_bytes > 0) content.skip_text(name_bytes);
    if (values != (filter == kShuffle ? 1 : 0)) content.refuse(concat("filter ", filter, " has ", values, " values"));
    if (filter == kShuffle) {
      content.expect(4, element_bytes, "bytes that shuffle takes apart");
      content.skip(4);
    }
  }
  return filters;
}

}  // namespace

Hdf5Object::Hdf5Object(Hdf5View& view, uint64_t at, std::string path) : view_(view), at_(at), path_(std::move(path)) {
  view_.claim(at, kHeaderBytes, "an object header");
  view_.require_equal(at, 1, 1, "version of an object header");
  std::vector<Hdf5Message> continuations;
  read_messages(at + kHeaderBytes, view_.u32(at + 8), continuations);
  for (size_t i = 0; i < continuations.size(); ++i) {  // grows in the loop; no range is taken twice, so it ends
    const Hdf5Message continuation = continuations[i];
    if (continuation.bytes < 16) view_.refuse(continuation.at, "a continuation must have 16 bytes");
    read_messages(view_.u64(continuation.at), view_.u64(continuation.at + 8), continuations);
  }
  view_.require_equal(at + 2, 2, messages_.size(), "messages of an object header");

  std::set<uint64_t> seen;
  for (const Hdf5Message& message : messages_) {
    if (!contains(kSeveralInOneHeader, message.type) && !seen.insert(message.type).second) {
      view_.refuse(message.at, concat("a second message of kind ", message.type));
    }
    if (message.type == kAttribute) check_attribute(message);
  }
}

void Hdf5Object::read_messages(uint64_t at, uint64_t bytes, std::vector<Hdf5Message>& continuations) {
  view_.claim(at, bytes, "messages");
  const uint64_t end = at + bytes;
  while (at < end) {
    if (end - at < kMessageHeaderBytes) view_.refuse(at, "messages must fill their range");
    const Hdf5Message message{view_.u16(at), at + kMessageHeaderBytes, view_.u16(at + 2)};
    const uint64_t flags = view_.u8(at + 4);
    if (message.bytes % 8 != 0 || message.bytes > end - message.at) {
      view_.refuse(at + 2, concat("the length of a message (", message.bytes, ") must be a multiple of 8 and end with its range"));
    }
    if (!contains(kKnownTypes, message.type)) {
      throw Error(concat(view_.name(), ": ", path_.empty() ? "the root group" : path_, " has a message of kind ", message.type, " at byte ",
                         at, ": soft and external links, and what newer formats than HDF5's default have, are not read"));
    }
    if ((flags & ~kKnownFlags) != 0) {
      view_.refuse(at + 4,
                   concat((flags & kShared) != 0 ? "a message in another place" : "an unknown flag of a message", " (", flags, ")"));
    }
    messages_.push_back(message);
    if (message.type == kContinuation) continuations.push_back(message);
    at = message.at + message.bytes;
  }
}

void Hdf5Object::check_attribute(const Hdf5Message& message) const {
  Content content(view_, message, "an attribute");
  const uint64_t version = content.number(1);
  if (version != 1 && version != 3) content.refuse(concat("version (", version, ") must be 1 or 3"));
  if (version == 3) {
    content.expect(1, 0, "flags");
  } else {
    content.skip(1);
  }
  const uint64_t name_bytes = content.number(2);
  const uint64_t format_bytes = content.number(2);
  const uint64_t space_bytes = content.number(2);
  if (version == 3 && content.number(1) > 1) content.refuse("an unknown set of characters");
  const auto whole = [version](uint64_t bytes) { return version == 1 ? padded_to_8(bytes) : bytes; };
  const uint64_t name = content.skip(whole(name_bytes));
  if (view_.text(name, name_bytes).size() + 1 != name_bytes) content.refuse("a name must end where its length says");
  // Without the padding: HDF5 1.10 takes what does not fit for an error, and then frees the attribute twice.
  const auto part = [&](uint64_t bytes, const char* what) {
    const Content exact = content.part(bytes, what);
    content.skip(whole(bytes) - bytes);
    return exact;
  };
  const uint64_t element_bytes = read_number_format(part(format_bytes, "an attribute's format"));
  const Dataspace space = read_dataspace(part(space_bytes, "an attribute's size"));
  if (space.count > content.rest() / element_bytes) content.refuse(concat(space.count, " elements do not lie inside the attribute"));
}

const Hdf5Message* Hdf5Object::find(uint64_t type) const {
  const auto found = std::find_if(messages_.begin(), messages_.end(), [type](const Hdf5Message& message) { return message.type == type; });
  return found == messages_.end() ? nullptr : &*found;
}

const Hdf5Message& Hdf5Object::only(uint64_t type, const char* what) const {
  const Hdf5Message* const message = find(type);
  if (message == nullptr) view_.refuse(at_, concat(path_, " has no ", what));
  return *message;
}

bool Hdf5Object::is_group() const { return find(kSymbolTable) != nullptr; }

const Hdf5Message& Hdf5Object::symbol_table() const {
  const Hdf5Message& table = only(kSymbolTable, "symbol table");
  if (table.bytes < 16) view_.refuse(table.at, "a symbol table must have 16 bytes");
  for (const uint64_t type : {kDataspace, kNumberFormat, kLayout}) {
    if (find(type) != nullptr) view_.refuse(at_, concat(path_, " must be a group or a dataset, not both"));
  }
  return table;
}

std::optional<ChunkedLayout> Hdf5Object::check_dataset() const {
  if (path_.empty()) view_.refuse(at_, "the root must be a group");
  const std::string label = concat(view_.name(), ": dataset ", path_);
  if (find(kExternalFiles) != nullptr) throw Error(label + " has external storage: its elements are in other files");
  const Dataspace space = read_dataspace({view_, only(kDataspace, "dataspace"), "a dataspace"});
  const uint64_t element_bytes = read_number_format({view_, only(kNumberFormat, "number format"), "a number format"});
  Content layout(view_, only(kLayout, "layout"), "a layout");
  const uint64_t at = layout.at();
  const uint64_t version = layout.number(1);
  const uint64_t kind = layout.number(1);
  if (version == 4 && kind == 3) throw Error(label + " has a virtual layout: its elements are in other files");
  if (version != 3) layout.refuse(concat("version (", version, ") must be 3"));
  if (space.dimensions != 1) throw Error(label + " does not have exactly one dimension");
  for (const uint64_t type : {kOldFillValue, kFillValue}) {
    const Hdf5Message* const fill = find(type);
    if (fill == nullptr) continue;
    Content content(view_, *fill, "a fill value");
    const uint64_t bytes = type == kFillValue ? read_fill_value(content) : content.number(4);
    if (bytes != 0 && (bytes != element_bytes || bytes > content.rest()))
      content.refuse(concat("it has ", bytes, " bytes, an element ", element_bytes));
  }
  std::vector<uint64_t> filters;
  if (const Hdf5Message* const message = find(kFilters)) filters = read_filters({view_, *message, "filters"}, element_bytes, label);

  uint64_t bytes = 0;
  if (__builtin_mul_overflow(space.count, element_bytes, &bytes)) layout.refuse("more bytes than can be counted");
  enum : uint64_t { kCompact = 0, kContiguous = 1, kChunked = 2 };
  if (kind != kChunked && !filters.empty()) layout.refuse("filters without chunks");
  if (kind == kCompact) {
    layout.expect(2, bytes, "bytes of the elements");
    layout.skip(bytes);
    return std::nullopt;
  }
  if (kind == kContiguous) {
    const uint64_t place = layout.number(8);
    layout.expect(8, bytes, "bytes of the elements");
    if (bytes > 0) view_.claim(place, bytes, "elements");
    return std::nullopt;
  }
  if (kind != kChunked) layout.refuse(concat("kind (", kind, ") must be 0, 1 or 2"));
  layout.expect(1, 2, "dimensions of a chunk and its elements");
  ChunkedLayout chunked{path_, at, layout.number(8), space.count, layout.number(4), 0};
  layout.expect(4, element_bytes, "bytes of an element");
  if (chunked.chunk == 0 || chunked.chunk > UINT32_MAX / element_bytes - 1)
    layout.refuse(concat("elements of a chunk (", chunked.chunk, ") must be at least 1, and their bytes fit in 32 bits"));
  chunked.stored_bytes = chunked.chunk * element_bytes + (contains(filters, kFletcher32) ? kFletcher32Bytes : 0);
  return chunked;
}

}  // namespace pimoe
