#include "base/config_yaml.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <functional>
#include <iterator>
#include <sstream>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/config_fields.h"
#include "base/text.h"
#include "base/utf8.h"

namespace pimoe {
namespace {

/// yaml-cpp's block or flow style: an enum in a struct or an enum class, by its version.
using CollectionStyle = decltype(YAML::EmitterStyle::Default);

/// Builds the tree from the parser's events, where duplicate keys, anchors, tags and merges can still be seen: yaml-cpp's own tree
/// keeps the first of two equal keys and says nothing.
class TreeBuilder : public YAML::EventHandler {
 public:
  /// @param place_of  the place of a mark: in a file its line and column, on the command line the override
  TreeBuilder(std::function<ConfigPlace(const YAML::Mark&)> place_of, std::string path, ConfigProblems& problems)
      : place_of_(std::move(place_of)), path_(std::move(path)), problems_(problems) {}

  ConfigNode take_root() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ == 2) problem(mark, "the configuration ends here, and something follows: a second document, or a bracket too many");
  }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override { value(mark, "", anchor, node_of(ConfigNode::Kind::kNull, mark)); }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    problem(mark, "aliases (*name) are not supported; write the value out");
    complete(mark, node_of(ConfigNode::Kind::kNull, mark), /*usable=*/false);
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, const std::string& text) override {
    ConfigNode node = node_of(ConfigNode::Kind::kScalar, mark);
    node.scalar = text;
    node.quoted = tag == "!";  // so yaml-cpp marks every scalar that is not plain
    value(mark, tag, anchor, std::move(node));
  }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, CollectionStyle) override {
    open(mark, tag, anchor, ConfigNode::Kind::kMap);
  }
  void OnMapEnd() override { close(); }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, CollectionStyle) override {
    open(mark, tag, anchor, ConfigNode::Kind::kList);
  }
  void OnSequenceEnd() override { close(); }

 private:
  /// A map or list whose end has not come yet.
  struct Frame {
    ConfigNode node;
    YAML::Mark mark;
    std::unordered_map<std::string, int> lines;  ///< of the keys so far
    bool has_key = false;                        ///< a map's next event is a value
    bool key_usable = false;
    std::string key;
    ConfigPlace key_place;
  };

  ConfigNode node_of(ConfigNode::Kind kind, const YAML::Mark& mark) const {
    ConfigNode node;
    node.kind = kind;
    node.place = place_of_(mark);
    return node;
  }

  void problem(const YAML::Mark& mark, const std::string& message) {
    std::string path = path_;
    for (const Frame& frame : frames_) {
      if (!frame.key.empty()) path = config_path(path, frame.key);
      if (frame.node.kind == ConfigNode::Kind::kList && !path.empty()) path = element_path(path, frame.node.items.size());
    }
    problems_.add(place_of_(mark), path, message);
  }

  void refuse_decorations(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    if (anchor != YAML::NullAnchor) problem(mark, "anchors (&name) are not supported");
    if (!tag.empty() && tag != "?" && tag != "!") problem(mark, concat("tags (", tag, ") are not supported"));
  }

  void value(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, ConfigNode node) {
    refuse_decorations(mark, tag, anchor);
    complete(mark, std::move(node), /*usable=*/true);
  }

  void open(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, ConfigNode::Kind kind) {
    refuse_decorations(mark, tag, anchor);
    Frame frame;
    frame.node = node_of(kind, mark);
    frame.mark = mark;
    frames_.push_back(std::move(frame));
  }

  void close() {
    Frame frame = std::move(frames_.back());
    frames_.pop_back();
    complete(frame.mark, std::move(frame.node), /*usable=*/true);
  }

  /// Puts a finished node where it belongs; one that is not usable has been complained about and goes, with its key.
  void complete(const YAML::Mark& mark, ConfigNode node, bool usable) {
    if (frames_.empty()) {
      if (documents_ == 1) root_ = std::move(node);
      return;
    }
    Frame& parent = frames_.back();
    if (parent.node.kind == ConfigNode::Kind::kList) {
      if (!usable) node.kind = ConfigNode::Kind::kMap;  // an element of defaults keeps the place of what was complained about
      parent.node.items.push_back(std::move(node));
      return;
    }
    if (!parent.has_key) {
      begin_entry(parent, mark, node, usable);
      return;
    }
    if (parent.key_usable && usable) parent.node.entries.push_back({parent.key, parent.key_place, std::move(node)});
    parent.has_key = false;
    parent.key.clear();
  }

  void begin_entry(Frame& parent, const YAML::Mark& mark, const ConfigNode& key, bool usable) {
    parent.has_key = true;
    parent.key_usable = false;
    if (!usable) return;
    if (key.kind != ConfigNode::Kind::kScalar) {
      problem(mark, "a key must be a word");
      return;
    }
    parent.key = key.scalar;
    parent.key_place = key.place;
    const auto [earlier, is_new] = parent.lines.emplace(key.scalar, key.place.line);
    if (key.scalar == "<<") {
      problem(mark, "merges (<<) are not supported; write the keys out");
    } else if (!is_new) {
      const bool in_a_file = key.place.column > 0;
      problem(mark, in_a_file ? concat("duplicate key; it is on line ", earlier->second, " already") : "duplicate key");
    } else {
      parent.key_usable = true;
    }
  }

  std::function<ConfigPlace(const YAML::Mark&)> place_of_;
  std::string path_;
  ConfigProblems& problems_;
  std::vector<Frame> frames_;
  ConfigNode root_;
  int documents_ = 0;
};

/// @returns the tree, or an empty one where the text is not YAML; complaints about `path` go to `problems`.
ConfigNode parse_yaml(const std::string& yaml, const std::function<ConfigPlace(const YAML::Mark&)>& place_of, const std::string& path,
                      ConfigProblems& problems) {
  TreeBuilder builder(place_of, path, problems);
  try {
    std::istringstream in(yaml);
    YAML::Parser parser(in);
    // Twice, to see whether anything follows; at a stray bracket the parser would hand out empty documents for ever.
    if (parser.HandleNextDocument(builder)) parser.HandleNextDocument(builder);
  } catch (const YAML::Exception& error) {
    problems.add(place_of(error.mark), path, "not valid YAML: " + error.msg);
    return {};
  }
  return builder.take_root();
}

/// @returns the first byte that no text has. yaml-cpp takes 0x04 for the end of the file and would silently skip the rest; what is no UTF-8
/// could not be written into a checkpoint's manifest.
std::string::const_iterator find_what_is_no_text(const std::string& text) {
  const auto end = text.begin() + static_cast<std::ptrdiff_t>(valid_utf8_prefix(text));
  return std::find_if(text.begin(), end, [](char letter) {
    const auto code = static_cast<unsigned char>(letter);
    return (code < 0x20 && letter != '\t' && letter != '\n' && letter != '\r') || code == 0x7F;
  });
}

const char* complaint_about(char byte) {
  return static_cast<unsigned char>(byte) < 0x80 ? "a control character; a configuration is UTF-8 text"
                                                 : "bytes that are no UTF-8; a configuration is UTF-8 text";
}

}  // namespace

ConfigNode parse_source(const ConfigSource& source, ConfigProblems& problems) {
  const std::string& yaml = source.yaml;
  const auto place_of = [&source](const YAML::Mark& mark) {
    return ConfigPlace{source.name, std::max(mark.line, 0) + 1, std::max(mark.column, 0) + 1};
  };
  if (yaml.size() > kMostYamlBytes) {
    problems.add(
        place_of(YAML::Mark()), "",
        concat("has ", grouped(static_cast<int64_t>(yaml.size())), " bytes; a configuration has at most ", grouped(kMostYamlBytes)));
    return {};
  }
  if (const auto bad = find_what_is_no_text(yaml); bad != yaml.end()) {
    const auto line_begin = std::find(std::make_reverse_iterator(bad), yaml.rend(), '\n').base();
    problems.add({source.name, 1 + static_cast<int>(std::count(yaml.begin(), bad, '\n')), 1 + static_cast<int>(bad - line_begin)}, "",
                 complaint_about(*bad));
    return {};
  }
  ConfigNode root = parse_yaml(yaml, place_of, "", problems);
  if (root.kind == ConfigNode::Kind::kScalar || root.kind == ConfigNode::Kind::kList) {
    problems.add(root.place, "", "a configuration must be a map of keys (key: value), not one value or a list");
    return {};
  }
  return root;
}

ConfigNode parse_value(const std::string& yaml, const ConfigPlace& place, const std::string& path, ConfigProblems& problems) {
  if (const auto bad = find_what_is_no_text(yaml); bad != yaml.end()) {
    problems.add(place, path, complaint_about(*bad));
    return {};
  }
  return parse_yaml(
      yaml, [&place](const YAML::Mark&) { return place; }, path, problems);
}

}  // namespace pimoe
