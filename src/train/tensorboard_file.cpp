#include "train/tensorboard_file.h"

#include "base/host.h"
#include "base/text.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <system_error>

namespace pimoe {
namespace {

static_assert(std::endian::native == std::endian::little, "records are little-endian");

constexpr std::string_view kPrefix = "events.out.tfevents.";

// Numbers of fields, and how their bytes are read.
enum WireType : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

constexpr std::array<uint32_t, 256> kCrcTable = [] {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78u : 0u);
    table[byte] = crc;
  }
  return table;
}();

template <class Number>
void add_raw(std::string& out, Number value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void add_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>((value & 0x7f) | 0x80);
  out += static_cast<char>(value);
}

void add_key(std::string& out, uint32_t field, WireType type) { add_varint(out, (field << 3) | type); }

void add_bytes(std::string& out, uint32_t field, std::string_view bytes) {
  add_key(out, field, kBytes);
  add_varint(out, bytes.size());
  out += bytes;
}

std::string event_at(double wall_time) {
  std::string event;
  add_key(event, 1, kFixed64);
  add_raw(event, wall_time);
  return event;
}

void add_step(std::string& event, int64_t step) {
  add_key(event, 2, kVarint);
  add_varint(event, static_cast<uint64_t>(step));
}

uint32_t masked(uint32_t crc) { return std::rotr(crc, 15) + 0xa282ead8u; }

/// @returns a name behind those of all event files that are there
std::string file_name(const std::filesystem::path& folder) {
  auto time = static_cast<int64_t>(wall_clock_seconds());
  std::error_code ignored;  // a folder that is not there has none, and one that cannot be read is told of when it is written to
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(kPrefix)) time = std::max<int64_t>(time, std::strtoll(name.c_str() + kPrefix.size(), nullptr, 10) + 1);
  }
  return concat(kPrefix, padded(time, 10), ".", host_name());
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  uint32_t crc = 0xffffffffu;
  for (const char byte : bytes) crc = kCrcTable[(crc ^ static_cast<uint8_t>(byte)) & 0xff] ^ (crc >> 8);
  return ~crc;
}

std::string event_record(std::string_view data) {
  std::string record;
  add_raw<uint64_t>(record, data.size());
  add_raw(record, masked(crc32c(record)));
  record += data;
  add_raw(record, masked(crc32c(data)));
  return record;
}

std::string version_event(double wall_time) {
  std::string event = event_at(wall_time);
  add_bytes(event, 3, "brain.Event:2");
  return event;
}

std::string scalar_event(double wall_time, int64_t step, const Scalars& scalars) {
  std::string summary;
  for (const auto& [tag, number] : scalars) {
    std::string value;
    add_bytes(value, 1, tag);
    add_key(value, 2, kFixed32);
    add_raw(value, static_cast<float>(number));
    add_bytes(summary, 1, value);
  }
  std::string event = event_at(wall_time);
  add_step(event, step);
  add_bytes(event, 5, summary);
  return event;
}

std::string start_event(double wall_time, int64_t step) {
  std::string status;
  add_key(status, 1, kVarint);
  add_varint(status, 1);  // SessionLog.START
  std::string event = event_at(wall_time);
  add_step(event, step);
  add_bytes(event, 7, status);
  return event;
}

TensorboardFile::TensorboardFile(const std::filesystem::path& folder, int64_t first_step) : file_(folder / file_name(folder)) {
  // At once: later another run may have the folder's name. What cannot be written waits, and is told of with the first step.
  static_cast<void>(
      file_.append(event_record(version_event(wall_clock_seconds())) + event_record(start_event(wall_clock_seconds(), first_step))));
}

std::string TensorboardFile::append(int64_t step, const Scalars& scalars) {
  return file_.append(event_record(scalar_event(wall_clock_seconds(), step, scalars)));
}

std::string TensorboardFile::begin_again(int64_t step) { return file_.append(event_record(start_event(wall_clock_seconds(), step))); }

}  // namespace pimoe
