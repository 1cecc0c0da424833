#include "io/data/sample_order.h"

#include <algorithm>

#include "core/base/error.h"

namespace neox {

SampleOrder::SampleOrder(std::int64_t size, std::span<const SampleRange> skipped) : size_(size) {
  std::int64_t left_out = 0;
  for (SampleRange range : merged({skipped.begin(), skipped.end()})) {
    if (range.first >= size) break;
    range.last = std::min(range.last, size - 1);
    kept_before_each_.push_back(range.first - left_out);
    skipped_.push_back(range);
    left_out += range.last - range.first + 1;
  }
  kept_ = size_ - left_out;
  require(kept_ > 0, "all {} samples are left out (data.skip_sample_ranges): nothing to train on",
          size);
}

std::int64_t SampleOrder::kept_before(std::int64_t position) const {
  const std::int64_t pass = position / size_, at = position % size_;
  const auto next =
      std::upper_bound(skipped_.begin(), skipped_.end(), at,
                       [](std::int64_t p, const SampleRange& range) { return p < range.first; });
  std::int64_t before = at;
  if (next != skipped_.begin()) {
    const auto i = static_cast<std::size_t>(next - skipped_.begin()) - 1;
    before = kept_before_each_[i] + std::max<std::int64_t>(at - skipped_[i].last - 1, 0);
  }
  return pass * kept_ + before;
}

std::int64_t SampleOrder::find(std::int64_t position, std::int64_t n) const {
  const std::int64_t rank = kept_before(position) + n;
  const std::int64_t pass = rank / kept_, at = rank % kept_;
  // The skipped ranges with at most `at` kept samples before them lie before the one wanted.
  const auto next = std::upper_bound(kept_before_each_.begin(), kept_before_each_.end(), at);
  std::int64_t sample = at;
  if (next != kept_before_each_.begin()) {
    const auto i = static_cast<std::size_t>(next - kept_before_each_.begin()) - 1;
    sample = skipped_[i].last + 1 + (at - kept_before_each_[i]);
  }
  return pass * size_ + sample;
}

std::vector<SampleRange> SampleOrder::samples_of(std::int64_t begin, std::int64_t end) const {
  std::vector<SampleRange> ranges;
  end = std::min(end, begin + size_);  // a whole pass is everything
  while (begin < end) {
    const std::int64_t pass_end = std::min(end, begin - begin % size_ + size_);
    ranges.push_back({sample(begin), sample(pass_end - 1)});
    begin = pass_end;
  }
  return merged(std::move(ranges));
}

}  // namespace neox
