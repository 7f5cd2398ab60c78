#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <utility>
#include <vector>

namespace pimoe {

/// Who has which of one rank's pages. A page may serve several texts that begin equally: whole pages can be remembered by what they hold and what
/// stands before it, and stay findable after the last text that had them has ended, until their room is needed, longest unused first.
///
/// Holds numbers alone; what is in the pages is a KeyValueCache's.
class PagePool {
 public:
  /// @param remembers  false: nothing is findable
  PagePool(int64_t pages, int64_t page_tokens, bool remembers);

  int64_t pages() const { return static_cast<int64_t>(pages_.size()); }
  /// Pages that nobody has, remembered ones too.
  int64_t available() const { return static_cast<int64_t>(empty_.size() + unused_.size()); }

  /// A beginning that is there, in whole pages. It is nobody's until it is held.
  struct Prefix {
    std::vector<int64_t> pages;
    uint64_t name = 0;  ///< of the last page's content and all before it; 0: nothing
  };
  /// @param most  tokens at most
  Prefix find(const std::vector<int64_t>& tokens, int64_t most) const;

  /// One user more for each of them.
  void hold(const std::vector<int64_t>& pages);
  /// Pages for one user, whose content counts for nothing. REQUIRES count <= available()
  std::vector<int64_t> take(int64_t count);
  /// One user less for each.
  void release(const std::vector<int64_t>& pages);

  /// Makes a whole page findable. @param before  name of what stands before it; 0 at the beginning  @param tokens  page_tokens of them
  /// @returns the name of the beginning that ends with it: that of the page that was there already, if there was one
  uint64_t remember(uint64_t before, const int64_t* tokens, int64_t page);

 private:
  using Content = std::pair<uint64_t, std::vector<int64_t>>;  ///< name of what stands before, tokens
  struct Remembered {
    int64_t page;
    uint64_t name;
  };
  struct Page {
    int64_t users = 0;
    const Content* content = nullptr;     ///< the key in remembered_; null: not findable
    std::list<int64_t>::iterator unused;  ///< valid while it has no users and is findable
  };
  Page& page(int64_t index) { return pages_[static_cast<size_t>(index)]; }
  void forget(Page& page);

  int64_t page_tokens_;
  bool remembers_;
  std::vector<Page> pages_;
  std::vector<int64_t> empty_;
  std::list<int64_t> unused_;  ///< findable pages without users, longest unused first
  std::map<Content, Remembered> remembered_;
  uint64_t last_name_ = 0;
};

}  // namespace pimoe
