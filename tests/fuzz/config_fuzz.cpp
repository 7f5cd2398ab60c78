/// A configuration and its overrides, through everything that `pimoe train` does with them before it looks at the machine.
///
/// Input: the YAML text, then overrides ("a.b=c"), each behind a byte 0x1E, which no text has.

#include "fuzz/fuzz_target.h"

#include "base/errors.h"
#include "base/text.h"
#include "train/train_config.h"

#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  using namespace pimoe;
  std::vector<std::string> overrides = split(std::string(reinterpret_cast<const char*>(bytes), count), '\x1E');
  const ConfigSource file{overrides.front(), "fuzz.yaml"};
  overrides.erase(overrides.begin());
  try {
    const TrainConfig config = load_train_config(file, overrides);
    (void)doubts_about(config, 8);
    (void)config.run.seconds_until_leaving();
    // What a checkpoint carries must be read again, to the same values.
    const std::string printed = to_yaml(config);
    try {
      const std::string again = to_yaml(parse_train_config(printed, "printed.yaml"));
      require(again == printed, "a configuration that was printed and read prints the same", printed);
    } catch (const Error& error) {
      require(false, "a configuration that was taken is taken again when it was printed", error.what());
    }
  } catch (const ConfigError&) {
  } catch (const DataError&) {  // the tokenizer that it names
  }
  return 0;
}
