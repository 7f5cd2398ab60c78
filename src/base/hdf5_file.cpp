#include "base/hdf5_file.h"

#include <hdf5.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <mutex>
#include <utility>

#include "base/errors.h"
#include "base/fletcher32.h"
#include "base/hdf5_structure.h"
#include "base/huge_memory.h"
#include "base/progress.h"
#include "base/text.h"

namespace pimoe {
namespace {

static_assert(std::endian::native == std::endian::little, "files are little-endian, and elements are copied as they are");

constexpr int64_t kChunkBytes = int64_t{1} << 20;
constexpr size_t kImageGrowthBytes = size_t{1} << 20;
constexpr const char* kTypeAttribute = "dtype";

struct ElementFormat {
  ElementType type;
  const char* name;
  int64_t bytes;
};

constexpr std::array kElementFormats = {
    ElementFormat{ElementType::kFloat64, "float64", 8}, ElementFormat{ElementType::kFloat32, "float32", 4},
    ElementFormat{ElementType::kFloat16, "float16", 2}, ElementFormat{ElementType::kBfloat16, "bfloat16", 2},
    ElementFormat{ElementType::kInt64, "int64", 8},     ElementFormat{ElementType::kInt32, "int32", 4},
    ElementFormat{ElementType::kUint8, "uint8", 1},     ElementFormat{ElementType::kInt8, "int8", 1},
};

const ElementFormat& format_of(ElementType type) {
  return *std::find_if(kElementFormats.begin(), kElementFormats.end(), [type](const auto& format) { return format.type == type; });
}

/// @throws Error that begins with `what` for a name of none of them.
ElementType type_named(const std::string& name, const std::string& what) {
  for (const ElementFormat& format : kElementFormats) {
    if (name == format.name) return format.type;
  }
  throw Error(concat(what, "'", name, "' is none of our number formats (float32, bfloat16, ...)"));
}

/// @throws Error that ends with the innermost message of HDF5's error stack: the outer ones only say which function failed.
[[noreturn]] void refuse(const std::string& what) {
  std::string reason;
  const auto take_first = [](unsigned, const H5E_error2_t* entry, void* out) -> herr_t {
    auto& text = *static_cast<std::string*>(out);
    if (text.empty()) text = concat(entry->desc, " (", entry->func_name, ")");
    return 0;
  };
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_first, &reason);
  throw Error(reason.empty() ? what : concat(what, ": ", reason));
}

template <class Result>
Result checked(Result result, const std::string& what) {
  if (result < 0) refuse(what);
  return result;
}

/// An HDF5 identifier that closes itself; `close` is for writers, because HDF5 may report a failed write there alone.
class Handle {
 public:
  using Closer = herr_t (*)(hid_t);
  Handle() = default;
  Handle(hid_t id, Closer closer, const std::string& what) : id_(checked(id, what)), closer_(closer) {}
  ~Handle() {
    if (id_ >= 0) closer_(id_);
  }
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), closer_(other.closer_) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(closer_, other.closer_);
    return *this;
  }
  operator hid_t() const { return id_; }
  void close(const std::string& what) { checked(closer_(std::exchange(id_, -1)), what); }

 private:
  hid_t id_ = -1;
  Closer closer_ = nullptr;
};

Handle property_list(hid_t kind) { return {H5Pcreate(kind), H5Pclose, "HDF5 property list"}; }

/// No time stamps: the same content gives the same bytes.
Handle untimed_property_list(hid_t kind) {
  Handle list = property_list(kind);
  checked(H5Pset_obj_track_times(list, false), "HDF5 time stamps");
  return list;
}

Handle file_type(ElementType type) {
  const auto copy = [](hid_t original) { return Handle(H5Tcopy(original), H5Tclose, "HDF5 number format"); };
  switch (type) {
    case ElementType::kFloat64: return copy(H5T_IEEE_F64LE);
    case ElementType::kFloat32: return copy(H5T_IEEE_F32LE);
    case ElementType::kBfloat16: return copy(H5T_STD_U16LE);
    case ElementType::kInt64: return copy(H5T_STD_I64LE);
    case ElementType::kInt32: return copy(H5T_STD_I32LE);
    case ElementType::kUint8: return copy(H5T_STD_U8LE);
    case ElementType::kInt8: return copy(H5T_STD_I8LE);
    case ElementType::kFloat16: break;
  }
  Handle half = copy(H5T_IEEE_F32LE);  // HDF5 1.10 has no name for it, but can describe it: sign 1, exponent 5, mantissa 10 bits
  checked(H5Tset_fields(half, 15, 10, 5, 0, 10), "HDF5 float16");
  checked(H5Tset_size(half, 2), "HDF5 float16");
  checked(H5Tset_ebias(half, 15), "HDF5 float16");
  return half;
}

Handle text_type(size_t length, const std::string& what) {
  Handle type(H5Tcopy(H5T_C_S1), H5Tclose, what);
  checked(H5Tset_size(type, std::max<size_t>(length, 1)), what);  // HDF5 has no strings of length 0
  checked(H5Tset_strpad(type, H5T_STR_NULLPAD), what);
  checked(H5Tset_cset(type, H5T_CSET_UTF8), what);
  return type;
}

void write_text_attribute(hid_t object, const std::string& name, const std::string& value, const std::string& what) {
  if (value.find('\0') != std::string::npos) throw Error(what + ": a text with a zero byte cannot be stored");
  Handle type = text_type(value.size(), what);
  Handle space(H5Screate(H5S_SCALAR), H5Sclose, what);
  Handle attribute(H5Acreate2(object, name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose, what);
  checked(H5Awrite(attribute, type, value.c_str()), what);
  attribute.close(what);
}

/// @throws Error when the attribute is missing or is not one fixed-length string.
std::string read_text_attribute(hid_t object, const std::string& name, const std::string& what) {
  const Handle attribute(H5Aopen(object, name.c_str(), H5P_DEFAULT), H5Aclose, what);
  const Handle type(H5Aget_type(attribute), H5Tclose, what);
  const Handle space(H5Aget_space(attribute), H5Sclose, what);
  if (H5Tget_class(type) != H5T_STRING || checked(H5Tis_variable_str(type), what) != 0 || H5Sget_simple_extent_npoints(space) != 1) {
    throw Error(what + ": it is not a text of fixed length");
  }
  std::string value(H5Tget_size(type), '\0');
  checked(H5Aread(attribute, type, value.data()), what);  // the file's own type: HDF5 does not convert between character sets
  value.erase(value.find_last_not_of('\0') + 1);
  return value;
}

void write_list_attribute(hid_t object, const std::string& name, const std::vector<int64_t>& values, const std::string& what) {
  const hsize_t length = values.size();
  Handle space(H5Screate_simple(1, &length, nullptr), H5Sclose, what);
  Handle attribute(H5Acreate2(object, name.c_str(), H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose, what);
  if (!values.empty()) checked(H5Awrite(attribute, H5T_NATIVE_INT64, values.data()), what);
  attribute.close(what);
}

/// Adds the integer lists of a dataset to `out`; attributes of other kinds are another program's notes.
Hdf5Attributes read_list_attributes(hid_t dataset, const std::string& what) {
  std::vector<std::string> names;
  const auto collect = [](hid_t, const char* name, const H5A_info_t*, void* out) -> herr_t {
    static_cast<std::vector<std::string>*>(out)->emplace_back(name);
    return 0;
  };
  checked(H5Aiterate2(dataset, H5_INDEX_NAME, H5_ITER_INC, nullptr, collect, &names), what);
  Hdf5Attributes lists;
  for (const std::string& name : names) {
    const Handle attribute(H5Aopen(dataset, name.c_str(), H5P_DEFAULT), H5Aclose, what);
    const Handle type(H5Aget_type(attribute), H5Tclose, what);
    const Handle space(H5Aget_space(attribute), H5Sclose, what);
    if (H5Tget_class(type) != H5T_INTEGER || H5Sget_simple_extent_ndims(space) != 1) continue;
    std::vector<int64_t> values(static_cast<size_t>(checked(H5Sget_simple_extent_npoints(space), what)));
    if (!values.empty()) checked(H5Aread(attribute, H5T_NATIVE_INT64, values.data()), what);
    lists.emplace(name, std::move(values));
  }
  return lists;
}

/// HDF5 takes two open images of one name for the same file, so every writer and reader gets a name of its own.
std::string image_name(const void* owner) { return concat("pimoe-image-", owner); }

/// HDF5 prints its error stack to stderr on its own; our Error carries the line that matters.
void silence_hdf5() { checked(H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr), "HDF5 cannot be started"); }

/// @throws Error unless `name` is a plain path: "master/layers.0.norm".
std::vector<std::string> path_elements(const std::string& name) {
  std::vector<std::string> elements = split(name, '/');
  for (const std::string& element : elements) {
    if (element.empty() || element == "." || element == ".." || element.find('\0') != std::string::npos) {
      throw Error(concat("dataset name '", name, "' must be elements joined by single '/', none of them '.' or '..'"));
    }
  }
  return elements;
}

// HDF5 asks these for memory when it opens an image, and would copy it twice by itself. They lend it the caller's bytes instead:
// the file is open for reading alone, so nothing writes to them or makes them longer.
void* lend(size_t, H5FD_file_image_op_t, void* bytes) { return bytes; }
void* keep(void* target, const void*, size_t, H5FD_file_image_op_t, void*) { return target; }
void* refuse_growth(void*, size_t, H5FD_file_image_op_t, void*) { return nullptr; }
herr_t leave(void*, H5FD_file_image_op_t, void*) { return 0; }
void* same(void* bytes) { return bytes; }
herr_t leave_bytes(void*) { return 0; }

// A file that is written grows in huge pages.
void* grow_huge(void*, size_t bytes, H5FD_file_image_op_t, void* memory) { return static_cast<HugeMemory*>(memory)->grow(bytes); }
void* take_huge(size_t bytes, H5FD_file_image_op_t, void* memory) { return static_cast<HugeMemory*>(memory)->grow(bytes); }
void* copy_huge(void* to, const void* from, size_t bytes, H5FD_file_image_op_t, void*) { return std::memcpy(to, from, bytes); }
herr_t release_huge(void*, H5FD_file_image_op_t, void* memory) {
  static_cast<HugeMemory*>(memory)->release();
  return 0;
}

/// Writes a dataset's chunks as HDF5's own pipeline would, the last one filled up with zeros, in a fifth of its time.
void write_chunks(hid_t dataset, const std::byte* bytes, size_t count, size_t chunk_bytes, size_t element, const std::string& what) {
  std::vector<std::byte> chunk(chunk_bytes + sizeof(uint32_t));
  for (size_t done = 0; done < count; done += chunk_bytes) {
    const size_t part = std::min(chunk_bytes, count - done);
    std::memcpy(chunk.data(), bytes + done, part);
    std::memset(chunk.data() + part, 0, chunk_bytes - part);
    const uint32_t checksum = fletcher32(chunk.data(), chunk_bytes);
    std::memcpy(chunk.data() + chunk_bytes, &checksum, sizeof(checksum));
    const auto first = static_cast<hsize_t>(done / element);
    checked(H5Dwrite_chunk(dataset, H5P_DEFAULT, /*filters skipped*/ 0, &first, chunk.size(), chunk.data()), what);
    progress_tick();
  }
}

}  // namespace

std::string hdf5_version() {
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  return concat(major, ".", minor, ".", release);
}

int64_t element_bytes(ElementType type) { return format_of(type).bytes; }

const char* element_name(ElementType type) { return format_of(type).name; }

ElementType element_type(const std::string& name) { return type_named(name, ""); }

int64_t chunk_elements(ElementType type, int64_t count) { return std::clamp<int64_t>(count, 1, kChunkBytes / element_bytes(type)); }

namespace {

/// HDF5 has one state for the whole process, and distributions build it without its own lock: a checkpoint's writer thread and the training
/// thread may both be at work.
std::unique_lock<std::mutex> sole_use_of_hdf5() {
  static std::mutex mutex;
  return std::unique_lock(mutex);
}

}  // namespace

struct Hdf5Writer::Handles {
  HugeMemory memory;  // closing the file releases it
  Handle file;
};

Hdf5Writer::Hdf5Writer() : handles_(std::make_unique<Handles>()) {
  const auto sole = sole_use_of_hdf5();
  silence_hdf5();
  const Handle access = property_list(H5P_FILE_ACCESS);
  // Library-version bounds stay at their defaults: with any other, 1.10 gives images that it cannot open again.
  checked(H5Pset_fapl_core(access, kImageGrowthBytes, /*backing_store=*/false), "HDF5 file image");
  H5FD_file_image_callbacks_t callbacks = {take_huge, copy_huge, grow_huge, release_huge, same, leave_bytes, &handles_->memory};
  checked(H5Pset_file_image_callbacks(access, &callbacks), "HDF5 file image");
  const Handle creation = untimed_property_list(H5P_FILE_CREATE);
  handles_->file = Handle(H5Fcreate(image_name(handles_.get()).c_str(), H5F_ACC_EXCL, creation, access), H5Fclose, "HDF5 file image");
}

Hdf5Writer::~Hdf5Writer() {
  const auto sole = sole_use_of_hdf5();
  handles_.reset();
}

void Hdf5Writer::require_unfinished() const {
  if (!handles_) throw Error("HDF5 file image: the writer is used up");
}

void Hdf5Writer::add(const std::string& name, ElementType type, const void* elements, int64_t count, const Hdf5Attributes& attributes) {
  require_unfinished();
  const auto sole = sole_use_of_hdf5();
  const std::string what = concat("dataset ", name);
  if (count < 0) throw Error(concat(what, ": ", count, " elements"));
  std::vector<std::string> groups = path_elements(name);
  groups.pop_back();
  std::string group_path;
  for (const std::string& element : groups) {  // by hand: those that HDF5 makes in passing carry time stamps
    group_path += "/" + element;
    if (checked(H5Lexists(handles_->file, group_path.c_str(), H5P_DEFAULT), what) > 0) continue;
    const Handle untimed = untimed_property_list(H5P_GROUP_CREATE);
    Handle(H5Gcreate2(handles_->file, group_path.c_str(), H5P_DEFAULT, untimed, H5P_DEFAULT), H5Gclose, what).close(what);
  }

  const auto length = static_cast<hsize_t>(count);
  const auto chunk = static_cast<hsize_t>(chunk_elements(type, count));
  const Handle space(H5Screate_simple(1, &length, nullptr), H5Sclose, what);
  const Handle creation = untimed_property_list(H5P_DATASET_CREATE);
  checked(H5Pset_chunk(creation, 1, &chunk), what);
  checked(H5Pset_fletcher32(creation), what);
  const Handle format = file_type(type);
  Handle dataset(H5Dcreate2(handles_->file, name.c_str(), format, space, H5P_DEFAULT, creation, H5P_DEFAULT), H5Dclose, what);
  write_text_attribute(dataset, kTypeAttribute, element_name(type), what);
  for (const auto& [key, values] : attributes) write_list_attribute(dataset, key, values, concat(what, ", attribute ", key));
  const auto element = static_cast<size_t>(element_bytes(type));
  write_chunks(dataset, static_cast<const std::byte*>(elements), static_cast<size_t>(count) * element, chunk * element, element, what);
  dataset.close(what);
}

void Hdf5Writer::set_text(const std::string& name, const std::string& value) {
  require_unfinished();
  const auto sole = sole_use_of_hdf5();
  write_text_attribute(handles_->file, name, value, concat("text ", name, " of ", value.size(), " bytes"));
}

Hdf5Image Hdf5Writer::finish() {
  require_unfinished();
  const auto sole = sole_use_of_hdf5();
  const std::string what = "HDF5 file image";
  checked(H5Fflush(handles_->file, H5F_SCOPE_GLOBAL), what);
  Hdf5Image image;
  image.size_ = static_cast<size_t>(checked(H5Fget_file_image(handles_->file, nullptr, 0), what));
  // What a file of the core driver has for a handle is the memory that it keeps the file in.
  void** memory = nullptr;
  checked(H5Fget_vfd_handle(handles_->file, H5P_DEFAULT, reinterpret_cast<void**>(&memory)), what);
  image.bytes_ = static_cast<const std::byte*>(*memory);
  image.file_ = std::shared_ptr<Handles>(handles_.release(), [](Handles* handles) {
    const auto alone = sole_use_of_hdf5();
    delete handles;
  });
  return image;
}

struct Hdf5Reader::Handles {
  std::string file_name;
  Handle file;
  std::map<std::string, Dataset> datasets;
  // The dataset read last stays open with its chunk cache: resharding reads many short stretches of one.
  std::string open_name;
  Handle open_dataset;

  std::string what(const std::string& name) const { return concat(file_name, ": dataset ", name); }
  void open_image(const std::byte* bytes, size_t count);
  void list_datasets();
  Dataset inspect(hid_t dataset, const std::string& name) const;
  const Dataset& find(const std::string& name) const;
};

void Hdf5Reader::Handles::open_image(const std::byte* bytes, size_t count) {
  const std::string what = concat(file_name, ": it is not an HDF5 file");
  check_hdf5_structure(bytes, count, file_name);
  void* const lent = const_cast<std::byte*>(bytes);  // HDF5's signatures know no const; see `lend`
  H5FD_file_image_callbacks_t callbacks = {lend, keep, refuse_growth, leave, same, leave_bytes, lent};
  const Handle access = property_list(H5P_FILE_ACCESS);
  checked(H5Pset_fapl_core(access, kImageGrowthBytes, /*backing_store=*/false), what);
  checked(H5Pset_file_image_callbacks(access, &callbacks), what);
  checked(H5Pset_file_image(access, lent, count), what);
  file = Handle(H5Fopen(image_name(this).c_str(), H5F_ACC_RDONLY, access), H5Fclose, what);
}

void Hdf5Reader::Handles::list_datasets() {
  std::vector<std::string> names;
  const auto collect = [](hid_t, const char* name, const H5L_info_t*, void* out) -> herr_t {
    static_cast<std::vector<std::string>*>(out)->emplace_back(name);
    return 0;
  };
  checked(H5Lvisit(file, H5_INDEX_NAME, H5_ITER_INC, collect, &names), file_name);
  for (const std::string& name : names) {
    const Handle object(H5Oopen(file, name.c_str(), H5P_DEFAULT), H5Oclose, what(name));
    if (H5Iget_type(object) == H5I_DATASET) datasets.emplace(name, inspect(object, name));
  }
}

Hdf5Reader::Dataset Hdf5Reader::Handles::inspect(hid_t dataset, const std::string& name) const {
  const std::string label = what(name);
  if (checked(H5Aexists(dataset, kTypeAttribute), label) == 0) throw Error(label + " has no attribute dtype");
  Dataset found;
  found.type = type_named(read_text_attribute(dataset, kTypeAttribute, label), label + ": dtype ");
  const Handle stored(H5Dget_type(dataset), H5Tclose, label);
  if (checked(H5Tequal(stored, file_type(found.type)), label) == 0) {
    throw Error(concat(label, " is marked as ", element_name(found.type), " and holds numbers of another format"));
  }
  const Handle space(H5Dget_space(dataset), H5Sclose, label);
  found.count = checked(H5Sget_simple_extent_npoints(space), label);
  found.attributes = read_list_attributes(dataset, label);
  return found;
}

const Hdf5Reader::Dataset& Hdf5Reader::Handles::find(const std::string& name) const {
  const auto place = datasets.find(name);
  if (place == datasets.end()) throw Error(concat(file_name, ": there is no dataset ", name));
  return place->second;
}

Hdf5Reader::Hdf5Reader(const std::byte* bytes, size_t count, const std::string& name_for_messages) : handles_(std::make_unique<Handles>()) {
  const auto sole = sole_use_of_hdf5();
  silence_hdf5();
  handles_->file_name = name_for_messages;
  try {
    handles_->open_image(bytes, count);
    handles_->list_datasets();
  } catch (...) {
    handles_.reset();  // here, while nobody else is in HDF5
    throw;
  }
}

Hdf5Reader::~Hdf5Reader() {
  const auto sole = sole_use_of_hdf5();
  handles_.reset();
}

std::vector<std::string> Hdf5Reader::names() const {
  std::vector<std::string> names;
  for (const auto& [name, dataset] : handles_->datasets) names.push_back(name);
  return names;
}

Hdf5Reader::Dataset Hdf5Reader::describe(const std::string& name) const { return handles_->find(name); }

std::string Hdf5Reader::text(const std::string& name) const {
  const auto sole = sole_use_of_hdf5();
  const std::string what = concat(handles_->file_name, ": text ", name);
  if (checked(H5Aexists(handles_->file, name.c_str()), what) == 0) throw Error(what + " is missing");
  return read_text_attribute(handles_->file, name, what);
}

void Hdf5Reader::read(const std::string& name, int64_t begin, int64_t count, void* out) const {
  const Dataset& dataset = handles_->find(name);
  const std::string what = handles_->what(name);
  if (begin < 0 || count < 0 || begin > dataset.count - count) {
    throw Error(concat(what, ": ", count, " elements from ", begin, " on do not lie inside its ", dataset.count));
  }
  if (count == 0) return;
  const auto sole = sole_use_of_hdf5();
  if (handles_->open_name != name) {
    handles_->open_dataset = Handle(H5Dopen2(handles_->file, name.c_str(), H5P_DEFAULT), H5Dclose, what);
    handles_->open_name = name;
  }
  const auto first = static_cast<hsize_t>(begin);
  const auto length = static_cast<hsize_t>(count);
  const Handle space(H5Dget_space(handles_->open_dataset), H5Sclose, what);
  checked(H5Sselect_hyperslab(space, H5S_SELECT_SET, &first, nullptr, &length, nullptr), what);
  const Handle memory(H5Screate_simple(1, &length, nullptr), H5Sclose, what);
  const Handle format = file_type(dataset.type);
  checked(H5Dread(handles_->open_dataset, format, memory, space, H5P_DEFAULT, out), what);
}

}  // namespace pimoe
