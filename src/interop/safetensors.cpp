#include "interop/safetensors.h"

#include "base/box.h"
#include "base/errors.h"
#include "base/lfs_pointer.h"
#include "base/text.h"
#include "base/utf8.h"

#include <ATen/ops/empty.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

namespace pimoe {
namespace {

static_assert(std::endian::native == std::endian::little, "elements are read and written as they lie in memory");

constexpr uint64_t kLargestHeaderBytes = 100'000'000;
constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kBeginningBytes = 64;  // tells pointers of Git LFS
constexpr int64_t kWriteBytes = 32 << 20;

constexpr std::array<std::pair<const char*, at::ScalarType>, 4> kWeightDtypes = {
    {{"F64", at::kDouble}, {"F32", at::kFloat}, {"F16", at::kHalf}, {"BF16", at::kBFloat16}}};

}  // namespace

std::optional<at::ScalarType> weight_dtype(const std::string& safetensors_dtype) {
  for (const auto& [name, dtype] : kWeightDtypes) {
    if (safetensors_dtype == name) return dtype;
  }
  return std::nullopt;
}

const char* safetensors_dtype(at::ScalarType dtype) {
  for (const auto& [name, each] : kWeightDtypes) {
    if (each == dtype) return name;
  }
  throw ShapeError(concat(c10::toString(dtype), " is no dtype of weights"));
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : file_(path) {
  const std::string name = path.string();
  if (file_.size() < kLengthBytes) throw DataError(concat(name, ": has ", file_.size(), " bytes: it is no safetensors file"));
  std::string beginning(std::min<uint64_t>(file_.size(), kBeginningBytes), '\0');
  file_.read(0, beginning.data(), beginning.size());
  refuse_lfs_pointer(beginning, name);
  uint64_t length = 0;
  file_.read(0, &length, kLengthBytes);
  if (length > kLargestHeaderBytes) {
    throw DataError(concat(name, ": says that its header has ", length, " bytes; at most ", grouped(kLargestHeaderBytes), " are allowed"));
  }
  if (length > file_.size() - kLengthBytes) {
    throw DataError(concat(name, ": says that its header has ", length, " bytes, and the file has ", file_.size()));
  }
  std::string header(length, '\0');
  file_.read(kLengthBytes, header.data(), header.size());
  data_begin_ = kLengthBytes + length;
  tensors_ = parse_safetensors_header(header, file_.size() - data_begin_, name);
}

at::Tensor SafetensorsFile::read(const std::string& tensor, int64_t begin, int64_t count) const {
  const SafetensorsEntry& entry = tensors_.at(tensor);
  const std::optional<at::ScalarType> dtype = weight_dtype(entry.dtype);
  if (!dtype) {
    throw DataError(
        concat(path().string(), ": '", printable(tensor), "' is of ", entry.dtype, "; weights are read in F64, F32, F16 or BF16"));
  }
  if (begin < 0 || count < 0 || begin > entry.numel() - count) {
    throw ShapeError(concat(tensor, ": elements [", begin, ", ", begin + count, ") of ", entry.numel()));
  }
  at::Tensor values = at::empty({count}, at::TensorOptions().dtype(*dtype));
  file_.read(data_begin_ + entry.begin + static_cast<uint64_t>(begin * values.element_size()), values.mutable_data_ptr(), values.nbytes());
  return values;
}

int64_t SafetensorsTensor::bytes(at::ScalarType others) const {
  return Box::whole(shape).numel() * static_cast<int64_t>(c10::elementSize(dtype.value_or(others)));
}

int64_t write_safetensors(const std::filesystem::path& path, const std::vector<SafetensorsTensor>& tensors, at::ScalarType dtype,
                          const std::function<at::Tensor(size_t index, int64_t begin, int64_t count)>& elements) {
  nlohmann::ordered_json header = {{"__metadata__", {{"format", "pt"}}}};
  int64_t at = 0;
  for (const SafetensorsTensor& tensor : tensors) {
    const int64_t bytes = tensor.bytes(dtype);
    header[tensor.name] = {
        {"dtype", safetensors_dtype(tensor.dtype.value_or(dtype))}, {"shape", tensor.shape}, {"data_offsets", {at, at + bytes}}};
    at += bytes;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t length = text.size();
  if (length > kLargestHeaderBytes)
    throw DataError(concat(path.string(), " would have too many tensors for one file: choose smaller shards"));

  LargeFileWriter file(path);
  file.append(&length, kLengthBytes);
  file.append(text.data(), text.size());
  for (size_t index = 0; index < tensors.size(); ++index) {
    const int64_t numel = Box::whole(tensors[index].shape).numel();
    const auto most = kWriteBytes / static_cast<int64_t>(c10::elementSize(tensors[index].dtype.value_or(dtype)));
    for (int64_t begin = 0; begin < numel; begin += most) {
      const at::Tensor part = elements(index, begin, std::min(numel - begin, most));
      file.append(part.const_data_ptr(), part.nbytes());
    }
  }
  file.finish();
  return static_cast<int64_t>(kLengthBytes + length) + at;
}

}  // namespace pimoe
