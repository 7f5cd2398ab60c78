/// A checkpoint's manifest.json, as it stands and with a digest that fits it: whoever can write a file can write that too.

#include "fuzz/fuzz_target.h"

#include "base/digest.h"
#include "base/errors.h"
#include "base/text.h"
#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/manifest.h"
#include "checkpoint/piece_check.h"
#include "checkpoint/verification.h"

#include <ATen/core/Tensor.h>

namespace {

constexpr const char* kBeforeDigest = ",\n\"sha256\": \"";
constexpr uint64_t kMostBytes = 1 << 20;

std::string signed_again(const std::string& text) {
  const std::string body = text.substr(0, text.rfind(kBeforeDigest));
  return pimoe::concat(body, kBeforeDigest, pimoe::sha256(body.data(), body.size()), "\"}\n");
}

bool is_small(const pimoe::Manifest& manifest) {
  uint64_t room = kMostBytes;
  for (const pimoe::StoredFile& file : manifest.files) {
    if (file.bytes > room) return false;
    room -= file.bytes;
  }
  return true;
}

void use(const std::string& text) {
  using namespace pimoe;
  const Manifest manifest = parse_manifest(text, "manifest.json");
  const std::string printed = to_json(manifest);
  require(to_json(parse_manifest(printed, "printed.json")) == printed, "a manifest that was printed and read prints the same", printed);
  for (const StoredFile& file : manifest.files) (void)shard_trouble("no-such-folder", manifest, file, /*digest=*/true);
  Manifest pieces_alone;
  pieces_alone.pieces = parse_pieces(pieces_to_json(manifest.pieces));
  (void)to_json(pieces_alone);
  CheckpointReader reader("no-such-folder", manifest);
  for (const auto& [name, tensor] : reader.tensors()) {
    try {
      const at::Tensor values = reader.read(name, 0, Box::whole(tensor.shape).numel());
      require(values.numel() == 0, "what is in no file is not read", name);
    } catch (const CheckpointError&) {
    }
  }
  // The stretches of a tensor are looked at only where the files have the sizes that the manifest says (bytes_trouble).
  if (is_small(manifest)) (void)coverage_trouble(manifest.pieces);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  const std::string text(reinterpret_cast<const char*>(bytes), count);
  for (const std::string& given : {text, signed_again(text)}) {
    try {
      use(given);
    } catch (const pimoe::CheckpointError&) {
    }
  }
  return 0;
}
