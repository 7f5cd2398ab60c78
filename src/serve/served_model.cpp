#include "serve/served_model.h"

#include "base/errors.h"
#include "base/text.h"
#include "model/generation.h"
#include "train/loaded_model.h"

namespace pimoe {

ModelLoader checkpoint_loader(const MpiSession& session) {
  return [&session](const std::filesystem::path& checkpoint) {
    ServedModel served;
    const auto loaded = std::make_shared<const LoadedModel>(checkpoint, session, ModelSpread::kShared, [&](TrainConfig& config) {
      served.notes = leave_out_what_batches_change(config.model);
    });
    served.model = loaded->model.get();
    served.mesh = loaded->mesh.get();
    served.checkpoint = loaded->folder.string();
    served.step = loaded->step;
    served.config = loaded->config;
    served.owner = loaded;
    return served;
  };
}

TokenTexts TokenTexts::of(const Tokenizer& tokenizer) {
  TokenTexts result;
  for (int64_t id = 0; id < tokenizer.vocabulary(); ++id) result.texts.push_back(tokenizer.text(static_cast<int32_t>(id)));
  result.beginning = tokenizer.end_of_document();
  return result;
}

}  // namespace pimoe
