#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace pimoe {

/// One layer's kept keys and values, in N pages of G positions. Keys of a page lie with neighbouring positions side by side, as scores are computed.
struct KeyValuePages {
  at::Tensor keys;    ///< [N, KV, d, G]
  at::Tensor values;  ///< [N, KV, G, v]
};

/// Tokens of one sequence, one behind the other.
struct PagedPart {
  std::vector<int64_t> pages;  ///< of the sequence: position p is in pages[p / G]; at least as many as hold first + count positions
  int64_t first = 0;           ///< position of the first token
  int64_t count = 0;
};

/// Tokens of a part that read keys and values together.
constexpr int64_t kPagedRun = 8;

/// What kernels of GPUs read of the tokens: int32, contiguous, on the device.
struct PagedTables {
  at::Tensor runs;      ///< [R, 4] neighbouring tokens of a sequence, at most kPagedRun: first token, its position, tokens, row of `pages`
  at::Tensor slots;     ///< [T] of each token page * G + position in it
  at::Tensor pages;     ///< [P, M] of each sequence, those behind its last unread
  int64_t longest = 0;  ///< positions of a sequence at most
};

/// What PagedTables have room for.
struct PagedTableSizes {
  static constexpr int64_t kNumbersOfRun = 4;

  int64_t runs = 0, parts = 0, width = 0, tokens = 0;  ///< R, P, M, T
  int64_t longest = 0;

  int64_t numbers() const { return kNumbersOfRun * runs + parts * width + tokens; }
};

/// Appends the numbers of PagedTables: runs, then pages, then slots, so that one copy brings all to the device.
/// @param parts  PagedParts, or what each is one (decoding copies none of their pages)
/// @param width  M: pages of a part behind its first M are left out, 0 stands for those that it lacks
template <class Part>
void append_tables(const std::vector<Part>& parts, int64_t page_tokens, int64_t width, std::vector<int32_t>& numbers) {
  const auto add = [&](int64_t number) { numbers.push_back(static_cast<int32_t>(number)); };
  int64_t row = 0;
  for (size_t at = 0; at < parts.size(); ++at) {
    const PagedPart& part = parts[at];
    if (part.count <= kPagedRun) {
      for (const int64_t number : {row, part.first, part.count, static_cast<int64_t>(at)}) add(number);
    }
    row += part.count;
  }
  for (const PagedPart& part : parts) {
    for (size_t at = 0; at < static_cast<size_t>(width); ++at) add(at < part.pages.size() ? part.pages[at] : 0);
  }
  for (const PagedPart& part : parts) {
    for (int64_t position = part.first; position < part.first + part.count; ++position) {
      add(part.pages.at(static_cast<size_t>(position / page_tokens)) * page_tokens + position % page_tokens);
    }
  }
}
/// @returns views of the numbers that append_tables gave; others may follow them
PagedTables tables_in(const at::Tensor& numbers, const PagedTableSizes& sizes);

/// The tokens of one forward pass, part after part, and what attention has to know of them, once for all layers.
struct PagedTokens {
  /// @param of_sequences  no page is written by two of them  @param pages, page_tokens  N and G of the layers
  /// @throws ShapeError for a part without tokens, or pages that are too few or outside [0, N)
  PagedTokens(std::vector<PagedPart> of_sequences, int64_t pages, int64_t page_tokens, c10::Device device);
  /// One token of each of T sequences, on a GPU, whose tables whoever has made them may write anew (DeviceGraph).
  PagedTokens(PagedTables of_tokens, int64_t pages, int64_t page_tokens);

  /// What has no kernel of ours is computed for some parts at a time, of equally many tokens each.
  struct Batch {
    at::Tensor rows;     ///< [n * count] of the tokens, part after part
    at::Tensor table;    ///< [n * M] pages, those of shorter parts filled up
    at::Tensor visible;  ///< [n, 1, count, M G] bool
    int64_t parts = 0, count = 0;
  };

  std::vector<PagedPart> parts;
  int64_t pages, page_tokens;
  int64_t count = 0;           ///< T
  at::Tensor page_of_token;    ///< [T] int64; on CPUs
  at::Tensor offset_of_token;  ///< [T] in its page
  PagedTables tables;          ///< on GPUs; runs are of parts with at most kPagedRun tokens
  std::vector<Batch> batches;  ///< of the others there, which make products large enough for tensor cores
};

/// Keeps the tokens' keys and values. @param keys [T, KV, d], values [T, KV, v], dense in the last dimension
void keep_in_pages(const KeyValuePages& kept, const at::Tensor& keys, const at::Tensor& values, const PagedTokens& tokens);

/// Softmax attention of each token to what is kept of its sequence up to its own position. Not differentiable.
///
/// On CPUs a token's numbers are the same bits whatever is computed beside it, in whatever parts, with pages of any size; on GPUs whatever is beside it,
/// for parts of at most kPagedRun tokens.
/// @param queries [T, H, d], dense in its last two dimensions; query h looks at keys and values h / (H / KV)
/// @param scale   of the scores; nothing: 1 / sqrt(d)
/// @returns [T, H v]
/// @cost  reads each part's keys and values once for up to kPagedRun tokens. GPUs copy the pages of longer parts first.
at::Tensor paged_attention(const at::Tensor& queries, const KeyValuePages& kept, const PagedTokens& tokens,
                           std::optional<double> scale = std::nullopt);

/// What GPUs compute of longer parts, by libtorch's operations: anywhere, to be compared. Rows that are in no batch are left as they happen to be.
at::Tensor composed_paged_attention(const at::Tensor& queries, const KeyValuePages& kept, const std::vector<PagedTokens::Batch>& batches,
                                    double scale);
/// @returns the parts of more than `above` tokens in as few batches as they have different counts
std::vector<PagedTokens::Batch> batches_of(const std::vector<PagedPart>& parts, int64_t page_tokens, c10::Device device, int64_t above = 0);
/// Whether one token of each sequence is computed without libtorch's operations, and so reads its tables alone, on a GPU.
bool has_paged_kernel(at::ScalarType dtype, int64_t width, int64_t value_width);

}  // namespace pimoe
