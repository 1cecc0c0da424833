#include "tests/kernels/mask_form.h"

#include <random>

#include <fmt/format.h>

namespace neox::test {
namespace {

OwnedTensor copied(const OwnedTensor& from, Stream& stream) {
  if (from.tensor.numel() == 0) return {};
  OwnedTensor to(from.tensor.shape, from.tensor.dtype, stream.device());
  copy(stream, from, to);
  stream.synchronize();
  return to;
}

}  // namespace

std::string describe(const MaskForm& form) {
  return fmt::format(" window {} documents {} blocks {}{}", form.window, form.document, form.block,
                     form.per_head ? " per head" : "");
}

OwnedMask::OwnedMask(const MaskForm& form, const AttentionProblem& p)
    : window_(form.window), block_(form.block) {
  std::mt19937_64 random(static_cast<std::uint64_t>(form.document + 31 * form.block));
  if (form.document > 0) {
    documents_ = OwnedTensor({p.batch, p.query_length}, DType::i32);
    std::int32_t* begins = documents_.tensor.ptr<std::int32_t>();
    std::bernoulli_distribution ends(1.0 / static_cast<double>(form.document));
    for (std::int64_t b = 0; b < p.batch; ++b) {
      std::int32_t begin = 0;
      for (std::int64_t j = 0; j < p.key_length; ++j) {
        if (ends(random)) begin = static_cast<std::int32_t>(j);
        const std::int64_t query = j - (p.key_length - p.query_length);
        if (query >= 0) begins[b * p.query_length + query] = begin;
      }
    }
  }
  if (form.block > 0) {
    const std::int64_t blocks = (p.key_length + form.block - 1) / form.block;
    const std::int64_t patterns = form.per_head ? p.heads : 1;
    kept_ = OwnedTensor({patterns, blocks, blocks}, DType::u8);
    std::bernoulli_distribution kept(0.3);
    for (std::int64_t i = 0; i < patterns * blocks * blocks; ++i) {
      const bool own = i / blocks % blocks == i % blocks;
      kept_.tensor.data[i] = static_cast<std::byte>(own || kept(random));
    }
  }
}

AttentionMask OwnedMask::view() const {
  AttentionMask mask;
  mask.window = window_;
  if (documents_.tensor.numel() > 0) mask.documents = documents_;
  if (block_ > 0) mask.pattern = {block_, kept_};
  return mask;
}

OwnedMask OwnedMask::on(Stream& stream) const {
  OwnedMask mask;
  mask.window_ = window_;
  mask.block_ = block_;
  mask.documents_ = copied(documents_, stream);
  mask.kept_ = copied(kept_, stream);
  return mask;
}

}  // namespace neox::test
