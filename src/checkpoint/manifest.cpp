#include "checkpoint/manifest.h"

#include "base/digest.h"
#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"
#include "checkpoint/piece_check.h"
#include "checkpoint/step_folders.h"
#include "checkpoint/verification.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <set>
#include <string_view>
#include <utility>

namespace pimoe {
namespace {

using Json = nlohmann::ordered_json;

// The text ends in these two with the digest between them; what stands before is what the digest signs.
constexpr std::string_view kBeforeDigest = ",\n\"sha256\": \"";
constexpr std::string_view kAfterDigest = "\"}\n";
constexpr size_t kDigestLength = 64;
constexpr uint64_t kLargestManifestBytes = uint64_t{1} << 30;

bool is_digest(std::string_view text) {
  return text.size() == kDigestLength &&
         std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool is_plain_file_name(const std::string& name) {
  return !name.empty() && name.size() <= 255 && name != "." && name != ".." && name != "manifest.json" &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) { return c > ' ' && c < 0x7f && c != '/' && c != '\\'; });
}

std::string number_text(double value) {
  std::array<char, 64> text;
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value, std::chars_format::hex).ptr;
  return {text.data(), end};
}

Json piece_json(const StoredPiece& stored, bool with_place) {
  Json json;
  if (with_place) {
    json["file"] = stored.file;
    json["dataset"] = stored.dataset;
  }
  json["kind"] = stored.kind;
  json["name"] = stored.piece.name;
  json["type"] = element_name(stored.type);
  json["global_shape"] = stored.piece.box.global;
  json["box_offset"] = stored.piece.box.offset;
  json["box_shape"] = stored.piece.box.shape;
  json["range"] = {stored.piece.begin, stored.piece.end};
  if (with_place) json["sha256"] = stored.sha256;
  return json;
}

/// One line an entry, so that a person can read a manifest and grep in it.
template <class Entries, class ToJson>
std::string array_text(const Entries& entries, ToJson&& to_entry) {
  std::string text = "[";
  for (const auto& entry : entries) text += concat(text.size() > 1 ? ",\n  " : "\n  ", to_entry(entry).dump());
  return text + "]";
}

[[noreturn]] void refuse(const std::string& where, const std::string& rule) { throw DamageError(concat(where, ": ", rule)); }

/// A JSON object whose fields are read with their types checked.
class Fields {
 public:
  Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object()) refuse(where_, "is not a JSON object");
  }

  const std::string& where() const { return where_; }

  const Json& at(const char* key) const {
    const auto found = object_.find(key);
    if (found == object_.end()) refuse(where_, concat("has no ", key));
    return *found;
  }

  std::string text(const char* key) const {
    const Json& value = at(key);
    if (!value.is_string()) refuse(where_, concat(key, " must be a text"));
    return value.get<std::string>();
  }

  int64_t count(const char* key) const {
    const int64_t value = integer(at(key), key);
    if (value < 0) refuse(where_, concat(key, " (", value, ") must be at least 0"));
    return value;
  }

  std::vector<int64_t> counts(const char* key) const {
    std::vector<int64_t> values;
    for (const Json& value : array(key)) values.push_back(integer(value, key));
    return values;
  }

  const Json& array(const char* key) const {
    const Json& value = at(key);
    if (!value.is_array()) refuse(where_, concat(key, " must be a list"));
    return value;
  }

  const Json& object(const char* key) const {
    const Json& value = at(key);
    if (!value.is_object()) refuse(where_, concat(key, " must be an object"));
    return value;
  }

  std::string digest(const char* key) const {
    std::string value = text(key);
    if (!is_digest(value)) refuse(where_, concat(key, " must be 64 hexadecimal digits"));
    return value;
  }

  int64_t integer(const Json& value, const char* key) const {
    const bool fits = value.is_number_integer() && (!value.is_number_unsigned() || value.get<uint64_t>() <= INT64_MAX);
    if (!fits) refuse(where_, concat(key, " must be a 64-bit integer"));
    return value.get<int64_t>();
  }

 private:
  const Json& object_;
  std::string where_;
};

double number_of(const Json& value, const std::string& where) {
  if (!value.is_string()) refuse(where, "must be a number as hexadecimal text");
  const std::string text = value.get<std::string>();
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::hex);
  if (error != std::errc() || end != text.data() + text.size()) refuse(where, concat("'", text, "' is not a number as hexadecimal text"));
  return number;
}

ElementType type_of(const Fields& fields) {
  const std::string name = fields.text("type");
  try {
    return element_type(name);
  } catch (const Error&) {
    refuse(fields.where(), concat("type '", name, "' is not a number format that this version reads"));
  }
}

StoredPiece parse_piece(const Fields& fields, bool with_place) {
  StoredPiece stored;
  stored.kind = fields.text("kind");
  stored.piece.name = fields.text("name");
  stored.type = type_of(fields);
  stored.piece.box = {fields.counts("global_shape"), fields.counts("box_offset"), fields.counts("box_shape")};
  const std::vector<int64_t> range = fields.counts("range");
  if (range.size() != 2) refuse(fields.where(), "range must be [begin, end]");
  stored.piece.begin = range[0];
  stored.piece.end = range[1];
  if (const std::string trouble = piece_trouble(stored.kind, stored.piece); !trouble.empty()) refuse(fields.where(), trouble);
  if (with_place) {
    stored.file = fields.text("file");
    stored.dataset = fields.text("dataset");
    stored.sha256 = fields.digest("sha256");
  }
  return stored;
}

/// Files and pieces must fit together before either is used: names are looked up, and sizes bound what is allocated.
void check_consistent(const Manifest& manifest, const std::string& where) {
  std::map<std::string, uint64_t> room;
  for (const StoredFile& file : manifest.files) {
    if (!is_plain_file_name(file.name)) refuse(where, concat("'", file.name, "' is not a plain file name"));
    if (!room.emplace(file.name, file.bytes).second) refuse(where, concat("lists ", file.name, " twice"));
  }
  std::set<std::pair<std::string, std::string>> datasets;
  for (const StoredPiece& stored : manifest.pieces) {
    const auto file = room.find(stored.file);
    if (file == room.end()) refuse(where, concat(stored.tensor(), " is in ", stored.file, ", which is not among the files"));
    if (stored.dataset != stored.tensor() && !stored.dataset.starts_with(stored.tensor() + "@")) {
      refuse(where, concat("dataset ", stored.dataset, " cannot hold ", stored.tensor()));
    }
    if (!datasets.emplace(stored.file, stored.dataset).second)
      refuse(where, concat("lists ", stored.dataset, " of ", stored.file, " twice"));
    const auto bytes = static_cast<uint64_t>(stored.piece.numel() * element_bytes(stored.type));
    if (bytes > file->second) refuse(where, concat(stored.tensor(), " does not fit into ", stored.file, " with the datasets before it"));
    file->second -= bytes;
  }
}

Json parse_json(const std::string& text, const std::string& where) {
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) refuse(where, "is not JSON");
  return json;
}

}  // namespace

std::string to_json(const Manifest& manifest) try {
  Json numbers = Json::object();
  for (const auto& [key, value] : manifest.numbers) numbers[key] = number_text(value);
  Json counters = Json::object();
  for (const auto& [key, value] : manifest.counters) counters[key] = value;
  const auto file_json = [](const StoredFile& file) { return Json{{"name", file.name}, {"bytes", file.bytes}, {"sha256", file.sha256}}; };

  std::string text = concat(
      "{\"format_version\": ", manifest.format_version, ",\n\"step\": ", manifest.step, ",\n\"ranks\": ", manifest.ranks,
      ",\n\"expert_parallel\": ", manifest.expert_parallel, ",\n\"config\": ", Json(manifest.config).dump(),
      ",\n\"numbers\": ", numbers.dump(), ",\n\"counters\": ", counters.dump(), ",\n\"files\": ", array_text(manifest.files, file_json),
      ",\n\"pieces\": ", array_text(manifest.pieces, [](const StoredPiece& piece) { return piece_json(piece, true); }));
  const std::string digest = sha256(text.data(), text.size());
  return text.append(kBeforeDigest).append(digest).append(kAfterDigest);
} catch (const nlohmann::json::exception& error) {
  throw CheckpointError(concat("the manifest cannot be written: ", error.what()));
}

Manifest parse_manifest(const std::string& json, const std::string& name_for_messages) try {
  const std::string& where = name_for_messages;
  const size_t tail = kBeforeDigest.size() + kDigestLength + kAfterDigest.size();
  const std::string_view text = json;
  const bool signed_text =
      text.size() > tail && text.ends_with(kAfterDigest) && text.substr(text.size() - tail, kBeforeDigest.size()) == kBeforeDigest;
  if (!signed_text) refuse(where, "is cut short or damaged: it does not end in its own digest");
  const size_t body = text.size() - tail;
  if (text.substr(body + kBeforeDigest.size(), kDigestLength) != sha256(json.data(), body)) {
    refuse(where, "is damaged: its content does not have the digest at its end");
  }

  const Json root = parse_json(json, where);
  const Fields fields(root, where);
  Manifest manifest;
  manifest.format_version = fields.count("format_version");
  // Its digest is right: no damage, and nothing to set aside.
  if (manifest.format_version > 1) {
    throw CheckpointError(concat(where, ": format_version (", manifest.format_version,
                                 ") must be 1 for this version of PiMoE: a newer one wrote it, and can go on from it"));
  }
  if (manifest.format_version != 1) refuse(where, concat("format_version (", manifest.format_version, ") must be 1"));
  manifest.step = fields.count("step");
  manifest.ranks = fields.count("ranks");
  manifest.expert_parallel = fields.count("expert_parallel");
  manifest.config = fields.text("config");
  for (const auto& [key, value] : fields.object("numbers").items())
    manifest.numbers[key] = number_of(value, concat(where, ": numbers.", key));
  for (const auto& [key, value] : fields.object("counters").items()) manifest.counters[key] = fields.integer(value, key.c_str());
  for (const Json& entry : fields.array("files")) {
    const Fields file(entry, concat(where, ": files[", manifest.files.size(), "]"));
    manifest.files.push_back({file.text("name"), static_cast<uint64_t>(file.count("bytes")), file.digest("sha256")});
  }
  for (const Json& entry : fields.array("pieces")) {
    manifest.pieces.push_back(parse_piece(Fields(entry, concat(where, ": pieces[", manifest.pieces.size(), "]")), true));
  }
  check_consistent(manifest, where);
  return manifest;
} catch (const nlohmann::json::exception& error) {
  throw CheckpointError(concat(name_for_messages, ": ", error.what()));
}

Manifest read_manifest(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "manifest.json";
  std::string text;
  try {
    text = read_regular_file(file, kLargestManifestBytes);
  } catch (const IoError& error) {
    if (!is_damage(error)) throw;
    throw DamageError(concat("checkpoint ", folder.string(), ": ", error.what()));
  }
  Manifest manifest = parse_manifest(text, file.string());
  // A folder under another step's name would be taken for older or newer than it is.
  const auto named = step_of((folder / "").lexically_normal().parent_path().filename().string());
  if (named && *named != manifest.step) {
    throw DamageError(concat("checkpoint ", folder.string(), ": its manifest is of step ", manifest.step, ": the folder was renamed from ",
                             step_name(manifest.step)));
  }
  return manifest;
}

std::string pieces_to_json(const std::vector<StoredPiece>& pieces) {
  return array_text(pieces, [](const StoredPiece& piece) { return piece_json(piece, false); });
}

std::vector<StoredPiece> parse_pieces(const std::string& json) {
  const Json root = parse_json(json, "a rank's list of pieces");
  std::vector<StoredPiece> pieces;
  for (const Json& entry : root) pieces.push_back(parse_piece(Fields(entry, concat("pieces[", pieces.size(), "]")), false));
  return pieces;
}

}  // namespace pimoe
