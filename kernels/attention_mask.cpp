#include "kernels/attention_mask.h"

namespace neox {
namespace {

void check(const char* what, ConstTensor tensor, DType dtype, Device device) {
  const bool good = tensor.dtype == dtype && tensor.device == device;
  if (good) return;
  fail("internal error: {} of an attention mask are {} on {}; expected {} on {}", what,
       name_of(tensor.dtype), name_of(tensor.device), name_of(dtype), name_of(device));
}

}  // namespace

MaskView mask_view(const AttentionMask& mask, Device device, std::int64_t batch, std::int64_t heads,
                   std::int64_t query_length, std::int64_t key_length) {
  MaskView view;
  const auto whole = [](std::int64_t n) { return static_cast<std::int32_t>(n); };
  view.queries = whole(query_length);
  view.offset = whole(key_length - query_length);
  if (mask.window < 0) fail("an attention window of {} keys", mask.window);
  view.window = whole(std::min(mask.window, key_length));
  if (mask.documents) {
    check("documents", mask.documents, DType::i32, device);
    if (mask.documents.numel() != batch * query_length) {
      fail("internal error: documents of an attention mask are {}; expected {} x {}",
           mask.documents.shape.str(), batch, query_length);
    }
    view.documents = reinterpret_cast<const std::int32_t*>(mask.documents.data);
  }
  const BlockPattern& pattern = mask.pattern;
  if (pattern.block == 0) return view;
  check("blocks", pattern.kept, DType::u8, device);
  const Shape& shape = pattern.kept.shape;
  const bool fits = shape.rank() == 3 && shape[1] == shape[2] &&
                    (shape[0] == 1 || shape[0] == heads) && pattern.block > 0 &&
                    pattern.block % 16 == 0 && shape[1] * pattern.block >= key_length;
  if (!fits) {
    fail(
        "a block pattern {} with blocks of {} positions does not fit attention of {} heads to {} "
        "keys: it is [1 or heads, blocks, blocks], of blocks of a multiple of 16",
        shape.str(), pattern.block, heads, key_length);
  }
  view.block = whole(pattern.block);
  view.blocks = whole(shape[1]);
  view.patterns = whole(shape[0]);
  view.kept = reinterpret_cast<const std::uint8_t*>(pattern.kept.data);
  return view;
}

}  // namespace neox
