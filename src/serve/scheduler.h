#pragma once

#include "serve/generation_request.h"
#include "serve/page_pool.h"
#include "serve/text_stream.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

namespace pimoe {

/// A request on its way.
struct ServedText {
  /// @param beginning  stands for an empty prompt
  ServedText(uint64_t of_request, GenerationRequest what, GenerationListener who, int64_t beginning);

  /// Tokens that have to be computed by now: all but the last that only has to be scored.
  int64_t wanted() const { return static_cast<int64_t>(tokens.size()) - (request.max_tokens == 0 ? 1 : 0); }
  int64_t added() const { return static_cast<int64_t>(tokens.size()) - prompt_tokens; }
  /// Positions that are computed if it ends with max_tokens: the last token is drawn, and no more.
  int64_t most_positions() const { return prompt_tokens + request.max_tokens - 1; }
  /// Whether a step is needed for it at all.
  bool needs_steps() const { return request.max_tokens > 0 || (scores_prompt() && prompt_tokens > 1); }
  bool scores_prompt() const { return request.score_prompt && request.top_logprobs.has_value(); }

  uint64_t id;
  GenerationRequest request;
  GenerationListener listener;
  std::vector<int64_t> tokens;  ///< the prompt's and those added
  int64_t prompt_tokens = 0;
  bool has_own_beginning = false;  ///< the prompt is the model's beginning, which nobody gave
  TextStream stream;
  TextStream prompt_stream{{}};

  // While it runs:
  int rank = -1;               ///< that holds its pages
  int64_t kept = 0;            ///< tokens whose keys and values are in them
  std::vector<int64_t> pages;  ///< all that it will need
  int64_t remembered = 0;      ///< pages at the beginning that the pool knows by their content
  uint64_t prefix = 0;         ///< the pool's name for them
};

/// Some tokens of one text, behind those kept.
struct TextPart {
  ServedText* text;
  int64_t count;
  int64_t scored;  ///< of its last tokens, whose scores are asked for
};

/// What one step computes, for each rank, in the order of its texts.
using PassPlan = std::vector<std::vector<TextPart>>;

/// Places that clients share: the last eighth is for who has less than an eighth, so that nobody who comes finds them all taken by another.
struct SharedPlaces {
  int64_t places = 1;
  bool has_several_clients = false;

  int64_t kept() const { return has_several_clients && places > 1 ? std::max<int64_t>(1, places / 8) : 0; }
  bool is_newcomer(int64_t own) const { return own < kept(); }
  /// Whether a client that has `own` of the `taken` places may take another.
  bool may_take(int64_t taken, int64_t own) const { return taken < places - (is_newcomer(own) ? 0 : kept()); }
};

struct SchedulerLimits {
  int ranks = 1;
  int64_t pages = 1;  ///< of each rank
  int64_t page_tokens = 16;
  int64_t max_batch = 64;
  int64_t prefill_chunk = 256;
  bool prefix_cache = true;
  bool has_several_clients = false;
};

/// Who runs, who waits, who has which pages, and what the next step computes. engine.h says by which rules. For one thread.
class Scheduler {
 public:
  explicit Scheduler(const SchedulerLimits& limits);

  void add(std::unique_ptr<ServedText> text);
  /// Takes a text out, and gives its pages back. @returns null where there is none of that id
  std::unique_ptr<ServedText> remove(uint64_t id);
  /// Lets texts begin while there is room. @returns how many have
  int64_t admit();
  /// @returns what the next step computes; nothing where no text runs
  PassPlan plan() const;
  /// A step has computed that part. Before tokens are added to the text.
  void computed(const TextPart& part);
  /// Forgets what was kept: the weights are others now. REQUIRES that nothing runs
  void forget_prefixes();

  const std::vector<std::unique_ptr<ServedText>>& running() const { return running_; }
  std::vector<uint64_t> ids() const;  ///< of all texts
  int64_t free_pages() const;
  uint64_t prefix_hit_tokens() const { return prefix_hit_tokens_; }

 private:
  using Line = std::map<uint64_t, std::unique_ptr<ServedText>>;  ///< of one client, by id

  /// @returns the line whose first is next; null where nobody waits
  Line* next_line();
  std::unique_ptr<ServedText> take_out(Line& line, Line::iterator place);
  bool begin(ServedText& text);
  int64_t running_of(size_t client) const;

  SchedulerLimits limits_;
  SharedPlaces places_;
  std::vector<PagePool> pools_;                        ///< of each rank
  std::vector<int64_t> running_on_;                    ///< texts of each rank
  std::map<size_t, int64_t> running_of_;               ///< texts of each client that has some
  std::map<int64_t, std::map<size_t, Line>> waiting_;  ///< by falling priority, then client; no line is empty
  std::vector<std::unique_ptr<ServedText>> running_;   ///< in the order in which they began
  uint64_t prefix_hit_tokens_ = 0;
};

}  // namespace pimoe
