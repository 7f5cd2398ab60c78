#include "checkpoint/shard_file.h"

#include "base/digest.h"
#include "base/errors.h"
#include "base/large_file.h"
#include "base/progress.h"
#include "base/text.h"
#include "checkpoint/piece_check.h"
#include "checkpoint/verification.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <map>
#include <utility>

namespace pimoe {
namespace {

constexpr std::array<std::pair<ElementType, at::ScalarType>, 8> kTypes = {{
    {ElementType::kFloat64, at::kDouble},
    {ElementType::kFloat32, at::kFloat},
    {ElementType::kFloat16, at::kHalf},
    {ElementType::kBfloat16, at::kBFloat16},
    {ElementType::kInt64, at::kLong},
    {ElementType::kInt32, at::kInt},
    {ElementType::kUint8, at::kByte},
    {ElementType::kInt8, at::kChar},
}};

constexpr uint64_t kBlockBytes = uint64_t{1} << 20;

std::string digest_of(const LargeFileReader& file) {
  Sha256 digest;
  std::vector<std::byte> block(std::min(kBlockBytes, file.size()));
  for (uint64_t at = 0; at < file.size(); at += block.size()) {
    const size_t count = std::min<uint64_t>(block.size(), file.size() - at);
    file.read(at, block.data(), count);
    digest.update(block.data(), count);
  }
  return digest.finish();
}

MappedFile map_verified(const std::filesystem::path& folder, const StoredFile& file) {
  const auto refuse = [&](const auto&... trouble) { throw DamageError(concat("checkpoint ", folder.string(), ": ", trouble...)); };
  try {
    // Read first: what the medium cannot give is an error here, where a map would end the process.
    const LargeFileReader reader(folder / file.name);
    if (reader.size() != file.bytes) refuse(file.name, " has ", reader.size(), " bytes, the manifest says ", file.bytes);
    if (digest_of(reader) != file.sha256) refuse(file.name, " is damaged: its bytes do not have the digest in the manifest");
    MappedFile map(folder / file.name);
    if (map.size() != file.bytes) refuse(file.name, " has ", map.size(), " bytes, the manifest says ", file.bytes);
    return map;
  } catch (const IoError& error) {
    if (!is_damage(error)) throw;
    refuse(error.what());
    throw;
  }
}

}  // namespace

std::optional<ElementType> element_type_of(at::ScalarType dtype) {
  for (const auto& [type, scalar] : kTypes) {
    if (scalar == dtype) return type;
  }
  return std::nullopt;
}

at::ScalarType scalar_type_of(ElementType type) {
  for (const auto& [known, scalar] : kTypes) {
    if (known == type) return scalar;
  }
  throw Error("a number format without a tensor dtype");
}

std::string state_trouble(const StatePiece& state) {
  const std::string tensor = concat(state.kind, "/", state.piece.name);
  if (const std::string trouble = piece_trouble(state.kind, state.piece); !trouble.empty()) return trouble;
  if (!state.values.defined()) return concat(tensor, ": has no values");
  if (state.values.dim() != 1 || state.values.numel() != state.piece.numel() || !state.values.is_contiguous()) {
    return concat(tensor, ": values of shape ", shape_text(state.values.sizes().vec()), " must be flat, contiguous and of ",
                  state.piece.numel(), " elements");
  }
  if (!element_type_of(state.values.scalar_type())) {
    return concat(tensor, ": dtype ", c10::toString(state.values.scalar_type()), " cannot be stored");
  }
  return "";
}

Hdf5Attributes attributes_of(const Piece& piece) {
  return {{"global_shape", piece.box.global},
          {"box_offset", piece.box.offset},
          {"box_shape", piece.box.shape},
          {"range", {piece.begin, piece.end}}};
}

std::string shard_name(int64_t rank, int64_t ranks, size_t part) {
  return concat("rank-", padded(rank, 4), "-of-", padded(ranks, 4), "-part-", padded(static_cast<int64_t>(part), 3), ".h5");
}

std::vector<StoredPiece> rows_of(const std::string& file, const std::vector<StatePiece>& pieces) {
  std::vector<StoredPiece> rows;
  std::map<std::string, int> pieces_of;
  for (const StatePiece& state : pieces) {
    StoredPiece& stored = rows.emplace_back();
    stored.file = file;
    stored.kind = state.kind;
    stored.piece = state.piece;
    stored.type = *element_type_of(state.values.scalar_type());
    const int earlier = pieces_of[stored.tensor()]++;
    stored.dataset = earlier == 0 ? stored.tensor() : concat(stored.tensor(), "@", earlier);
  }
  return rows;
}

namespace {

/// Runs `work` on a thread of its own, whose marks count as this thread's.
template <class Work>
auto beside(Work work) {
  return std::async(std::launch::async, [slot = progress_slot(), work = std::move(work)] {
    const ProgressOfThread same(slot);
    return work();
  });
}

StoredFile write_image(const std::filesystem::path& path, const Hdf5Image& image) {
  // The digest of 1 GiB takes about as long as the disk: side by side.
  auto digest = beside([&image] { return sha256(image.data(), image.size()); });
  write_durably(path, image.data(), image.size());
  return {path.filename().string(), image.size(), digest.get()};
}

}  // namespace

ShardWriter::ShardWriter(std::filesystem::path folder, Manifest& manifest, std::function<void(const StoredFile&)> written)
    : folder_(std::move(folder)), manifest_(manifest), written_(std::move(written)) {}

ShardWriter::~ShardWriter() {
  if (!writing_.valid()) return;
  const PatientOperation on_a_file;  // after an error elsewhere
  writing_.wait();
}

void ShardWriter::add(const std::string& name, const std::vector<StatePiece>& pieces) {
  std::vector<StoredPiece> rows = rows_of(name, pieces);
  Hdf5Writer writer;
  writer.set_text("format", "pimoe checkpoint 1");
  for (size_t i = 0; i < pieces.size(); ++i) {
    StoredPiece& stored = rows[i];
    const at::Tensor host = pieces[i].values.cpu();
    auto digest = beside([&host] { return sha256(host.const_data_ptr(), host.nbytes()); });
    writer.add(stored.dataset, stored.type, host.const_data_ptr(), host.numel(), attributes_of(stored.piece));
    stored.sha256 = digest.get();
  }
  finish();
  pieces_ = std::move(rows);
  writing_ = beside([path = folder_ / name, image = writer.finish()] { return write_image(path, image); });
}

void ShardWriter::finish() {
  if (!writing_.valid()) return;
  {
    const PatientOperation on_a_file;
    writing_.wait();
  }
  manifest_.files.push_back(writing_.get());
  std::move(pieces_.begin(), pieces_.end(), std::back_inserter(manifest_.pieces));
  pieces_.clear();
  if (written_) written_(manifest_.files.back());
}

ShardFile::ShardFile(const std::filesystem::path& folder, const StoredFile& file) try
    : map_(map_verified(folder, file)), reader_(map_.data(), map_.size(), (folder / file.name).string()) {
} catch (const CheckpointError&) {
  throw;
} catch (const IoError&) {  // no permission, a failing disk: nothing that is known of the file
  throw;
} catch (const Error& error) {
  throw CheckpointError(error.what());
}

at::Tensor ShardFile::read(const StoredPiece& stored, int64_t begin, int64_t count) const {
  at::Tensor elements = at::empty({count}, at::TensorOptions().dtype(scalar_type_of(stored.type)));
  read_into(elements, stored, begin);
  return elements;
}

void ShardFile::read_into(const at::Tensor& elements, const StoredPiece& stored, int64_t begin) const try {
  const auto found = reader_.describe(stored.dataset);
  if (found.type != stored.type || found.count != stored.piece.numel()) {
    throw CheckpointError(concat(stored.file, ": dataset ", stored.dataset, " is not what the manifest says"));
  }
  reader_.read(stored.dataset, begin, elements.numel(), elements.mutable_data_ptr());
} catch (const CheckpointError&) {
  throw;
} catch (const Error& error) {
  throw CheckpointError(error.what());
}

}  // namespace pimoe
