#include "serve/page_pool.h"

namespace pimoe {

PagePool::PagePool(int64_t pages, int64_t page_tokens, bool remembers)
    : page_tokens_(page_tokens), remembers_(remembers), pages_(static_cast<size_t>(pages)) {
  for (int64_t index = pages - 1; index >= 0; --index) empty_.push_back(index);
}

PagePool::Prefix PagePool::find(const std::vector<int64_t>& tokens, int64_t most) const {
  Prefix prefix;
  Content content;
  for (int64_t end = page_tokens_; remembers_ && end <= most; end += page_tokens_) {
    content.first = prefix.name;
    content.second.assign(tokens.begin() + (end - page_tokens_), tokens.begin() + end);
    const auto found = remembered_.find(content);
    if (found == remembered_.end()) break;
    prefix.pages.push_back(found->second.page);
    prefix.name = found->second.name;
  }
  return prefix;
}

void PagePool::hold(const std::vector<int64_t>& pages) {
  for (const int64_t index : pages) {
    Page& held = page(index);
    if (held.users++ == 0) unused_.erase(held.unused);  // what is found has a content
  }
}

std::vector<int64_t> PagePool::take(int64_t count) {
  std::vector<int64_t> taken;
  for (int64_t at = 0; at < count; ++at) {
    if (empty_.empty()) {
      forget(page(unused_.front()));
      empty_.push_back(unused_.front());
      unused_.pop_front();
    }
    taken.push_back(empty_.back());
    empty_.pop_back();
    page(taken.back()).users = 1;
  }
  return taken;
}

void PagePool::release(const std::vector<int64_t>& pages) {
  // From the end on: a beginning is of use without what stood behind it, and not the other way around.
  for (auto index = pages.rbegin(); index != pages.rend(); ++index) {
    Page& released = page(*index);
    if (--released.users > 0) continue;
    if (released.content == nullptr) {
      empty_.push_back(*index);
    } else {
      released.unused = unused_.insert(unused_.end(), *index);
    }
  }
}

uint64_t PagePool::remember(uint64_t before, const int64_t* tokens, int64_t index) {
  if (!remembers_) return 0;
  const auto [place, is_new] = remembered_.try_emplace({before, {tokens, tokens + page_tokens_}}, Remembered{index, last_name_ + 1});
  if (is_new) {
    ++last_name_;
    page(index).content = &place->first;
  }
  return place->second.name;
}

void PagePool::forget(Page& page) {
  remembered_.erase(remembered_.find(*page.content));
  page.content = nullptr;
}

}  // namespace pimoe
