#include "base/digest.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "base/errors.h"
#include "base/progress.h"

namespace pimoe {
namespace {

constexpr size_t kBytesAMark = size_t{64} << 20;  // a tenth of a second, for whoever watches

void require(bool worked) {
  if (!worked) throw Error("SHA-256: libcrypto refused (is SHA-256 disabled by this machine's policy?)");
}

}  // namespace

struct Sha256::Context {
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> state{EVP_MD_CTX_new(), &EVP_MD_CTX_free};
};

Sha256::Sha256() : context_(std::make_unique<Context>()) {
  require(context_->state != nullptr && EVP_DigestInit_ex(context_->state.get(), EVP_sha256(), nullptr) == 1);
}

Sha256::~Sha256() = default;

void Sha256::update(const void* bytes, size_t count) {
  for (const auto* at = static_cast<const char*>(bytes); count > 0;) {
    const size_t part = std::min(count, kBytesAMark);
    require(EVP_DigestUpdate(context_->state.get(), at, part) == 1);
    progress_tick();
    at += part;
    count -= part;
  }
}

std::string Sha256::finish() {
  std::array<unsigned char, 32> digest{};
  unsigned int written = 0;
  require(EVP_DigestFinal_ex(context_->state.get(), digest.data(), &written) == 1 && written == digest.size());
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const unsigned char byte : digest) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

std::string sha256(const void* bytes, size_t count) {
  Sha256 digest;
  digest.update(bytes, count);
  return digest.finish();
}

std::string sampled_sha256(const void* bytes, size_t count) {
  return sampled_sha256(count, [bytes](uint64_t offset, void* out, size_t part) {
    if (part > 0) std::memcpy(out, static_cast<const char*>(bytes) + offset, part);
  });
}

std::string sampled_sha256(uint64_t count, const std::function<void(uint64_t offset, void* out, size_t bytes)>& read) {
  constexpr uint64_t kStretches = 256;
  constexpr uint64_t kStretchBytes = uint64_t{64} << 10;
  Sha256 digest;
  std::vector<std::byte> stretch(kStretchBytes);
  const auto add = [&](uint64_t offset, uint64_t bytes) {
    read(offset, stretch.data(), bytes);
    digest.update(stretch.data(), bytes);
  };
  if (count <= kStretches * kStretchBytes) {
    for (uint64_t at = 0; at < count; at += kStretchBytes) add(at, std::min(kStretchBytes, count - at));
    return digest.finish();
  }
  digest.update(&count, sizeof(count));
  const uint64_t apart = (count - kStretchBytes) / (kStretches - 1);
  for (uint64_t i = 0; i + 1 < kStretches; ++i) add(i * apart, kStretchBytes);
  add(count - kStretchBytes, kStretchBytes);
  return digest.finish();
}

int64_t fingerprint(const std::string& digest) { return std::stoll(digest.substr(0, 15), nullptr, 16); }

}  // namespace pimoe
