#include "serve/scheduler.h"

#include <algorithm>
#include <utility>

namespace pimoe {

ServedText::ServedText(uint64_t of_request, GenerationRequest what, GenerationListener who, int64_t beginning)
    : id(of_request), request(std::move(what)), listener(std::move(who)), tokens(request.prompt), stream(request.stop) {
  has_own_beginning = tokens.empty();
  if (has_own_beginning) tokens.push_back(beginning);
  prompt_tokens = static_cast<int64_t>(tokens.size());
}

Scheduler::Scheduler(const SchedulerLimits& limits)
    : limits_(limits), places_{limits.max_batch, limits.has_several_clients}, running_on_(static_cast<size_t>(limits.ranks)) {
  forget_prefixes();
}

void Scheduler::forget_prefixes() {
  pools_.assign(static_cast<size_t>(limits_.ranks), PagePool(limits_.pages, limits_.page_tokens, limits_.prefix_cache));
}

void Scheduler::add(std::unique_ptr<ServedText> text) {
  Line& line = waiting_[-static_cast<int64_t>(text->request.priority)][text->request.client];
  line.emplace(text->id, std::move(text));
}

int64_t Scheduler::running_of(size_t client) const {
  const auto found = running_of_.find(client);
  return found == running_of_.end() ? 0 : found->second;
}

Scheduler::Line* Scheduler::next_line() {
  if (waiting_.empty()) return nullptr;
  Line* next = nullptr;
  std::pair<int64_t, uint64_t> least;
  for (auto& [client, line] : waiting_.begin()->second) {
    const std::pair<int64_t, uint64_t> turn{running_of(client), line.begin()->first};
    if (next != nullptr && least < turn) continue;
    next = &line;
    least = turn;
  }
  return next;
}

std::unique_ptr<ServedText> Scheduler::remove(uint64_t id) {
  std::unique_ptr<ServedText> text;
  const auto runs = std::find_if(running_.begin(), running_.end(), [&](const auto& each) { return each->id == id; });
  if (runs != running_.end()) {
    text = std::move(*runs);
    running_.erase(runs);
    pools_[static_cast<size_t>(text->rank)].release(text->pages);
    --running_on_[static_cast<size_t>(text->rank)];
    if (--running_of_.at(text->request.client) == 0) running_of_.erase(text->request.client);
    return text;
  }
  for (auto& [priority, lines] : waiting_) {
    for (auto& [client, line] : lines) {
      const auto waits = line.find(id);
      if (waits == line.end()) continue;
      return take_out(line, waits);
    }
  }
  return nullptr;
}

std::unique_ptr<ServedText> Scheduler::take_out(Line& line, Line::iterator place) {
  std::unique_ptr<ServedText> text = std::move(place->second);
  line.erase(place);
  if (!line.empty()) return text;
  const auto lines = waiting_.find(-static_cast<int64_t>(text->request.priority));
  lines->second.erase(text->request.client);
  if (lines->second.empty()) waiting_.erase(lines);
  return text;
}

int64_t Scheduler::admit() {
  int64_t begun = 0;
  for (Line* line = next_line(); line != nullptr; line = next_line()) {
    ServedText& text = *line->begin()->second;
    if (!places_.may_take(static_cast<int64_t>(running_.size()), running_of(text.request.client)) || !begin(text)) break;
    ++running_of_[text.request.client];
    running_.push_back(take_out(*line, line->begin()));
    ++begun;
  }
  return begun;
}

bool Scheduler::begin(ServedText& text) {
  // The scores of a prompt come from computing it; else at least its last token is computed.
  const int64_t reusable = text.scores_prompt() ? 0 : text.prompt_tokens - 1;
  const int64_t needed = (std::max<int64_t>(0, text.most_positions()) + limits_.page_tokens - 1) / limits_.page_tokens;
  // The rank with the fewest texts, and of equals the one that has most of the prompt.
  struct Choice {
    int rank;
    PagePool::Prefix prefix;
  };
  std::vector<Choice> choices;
  for (int rank = 0; rank < limits_.ranks; ++rank) {
    choices.push_back({rank, pools_[static_cast<size_t>(rank)].find(text.tokens, reusable)});
  }
  std::stable_sort(choices.begin(), choices.end(), [&](const Choice& one, const Choice& other) {
    const int64_t first = running_on_[static_cast<size_t>(one.rank)], second = running_on_[static_cast<size_t>(other.rank)];
    return first < second || (first == second && one.prefix.pages.size() > other.prefix.pages.size());
  });
  const bool is_newcomer = places_.is_newcomer(running_of(text.request.client));
  for (const Choice& choice : choices) {
    PagePool& pool = pools_[static_cast<size_t>(choice.rank)];
    const auto found = static_cast<int64_t>(choice.prefix.pages.size());
    const int64_t left_to_others = is_newcomer ? 0 : SharedPlaces{pool.pages(), limits_.has_several_clients}.kept();
    pool.hold(choice.prefix.pages);
    if (pool.available() - left_to_others < needed - found) {
      pool.release(choice.prefix.pages);
      continue;
    }
    text.rank = choice.rank;
    text.pages = choice.prefix.pages;
    const std::vector<int64_t> others = pool.take(needed - found);
    text.pages.insert(text.pages.end(), others.begin(), others.end());
    text.kept = found * limits_.page_tokens;
    text.remembered = found;
    text.prefix = choice.prefix.name;
    prefix_hit_tokens_ += static_cast<uint64_t>(text.kept);
    ++running_on_[static_cast<size_t>(choice.rank)];
    return true;
  }
  return false;
}

PassPlan Scheduler::plan() const {
  PassPlan plan(static_cast<size_t>(limits_.ranks));
  std::vector<int64_t> chunk(static_cast<size_t>(limits_.ranks), limits_.prefill_chunk);
  for (const auto& text : running_) {
    const int64_t left = text->wanted() - text->kept;
    int64_t count = left;
    if (text->added() == 0) {  // its prompt
      int64_t& room = chunk[static_cast<size_t>(text->rank)];
      count = std::min(left, room);
      room -= count;
    }
    if (count == 0) continue;
    const bool reaches_end = text->kept + count == static_cast<int64_t>(text->tokens.size());
    plan[static_cast<size_t>(text->rank)].push_back({text.get(), count,
                                                     text->scores_prompt() && text->added() == 0 ? count
                                                     : reaches_end                               ? 1
                                                                                                 : 0});
  }
  return plan;
}

void Scheduler::computed(const TextPart& part) {
  ServedText& text = *part.text;
  text.kept += part.count;
  for (; (text.remembered + 1) * limits_.page_tokens <= text.kept; ++text.remembered) {
    text.prefix = pools_[static_cast<size_t>(text.rank)].remember(text.prefix, text.tokens.data() + text.remembered * limits_.page_tokens,
                                                                  text.pages[static_cast<size_t>(text.remembered)]);
  }
}

std::vector<uint64_t> Scheduler::ids() const {
  std::vector<uint64_t> all;
  for (const auto& text : running_) all.push_back(text->id);
  for (const auto& [priority, lines] : waiting_) {
    for (const auto& [client, line] : lines) {
      for (const auto& [id, text] : line) all.push_back(id);
    }
  }
  return all;
}

int64_t Scheduler::free_pages() const {
  int64_t free = 0;
  for (const PagePool& pool : pools_) free += pool.available();
  return free;
}

}  // namespace pimoe
