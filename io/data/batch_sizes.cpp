#include "io/data/batch_sizes.h"

#include <algorithm>

#include "core/base/error.h"

namespace neox {
namespace {

__extension__ using Wide = __int128;  // products of two sample counts

}  // namespace

BatchSizes::BatchSizes(std::int64_t full, const BatchRampup& rampup) : full_(full) {
  if (rampup.samples == 0) return;
  rampup_ = rampup;
  const auto [start, increment, samples] = rampup;
  require(start >= 1 && increment >= 1 && samples >= 1 && start < full &&
              (full - start) % increment == 0,
          "a batch cannot grow from {} by {} to {} over {} samples: the difference must be a "
          "multiple of the increment",
          start, increment, full, samples);
}

std::int64_t BatchSizes::at(std::int64_t consumed) const {
  if (consumed >= rampup_.samples) return full_;
  const Wide steps = Wide{consumed} * increments() / rampup_.samples;
  return rampup_.start + rampup_.increment * static_cast<std::int64_t>(steps);
}

std::int64_t BatchSizes::steps_of_equal_size(std::int64_t consumed) const {
  const std::int64_t size = at(consumed);
  const Wide next = (size - rampup_.start) / rampup_.increment + 1;
  // The batch grows once c n / samples >= next.
  const Wide end = (next * rampup_.samples + increments() - 1) / increments();
  return static_cast<std::int64_t>((end - consumed + size - 1) / size);
}

std::int64_t BatchSizes::after(std::int64_t consumed, std::int64_t steps) const {
  while (steps > 0 && consumed < rampup_.samples) {
    const std::int64_t equal = std::min(steps, steps_of_equal_size(consumed));
    consumed += equal * at(consumed);
    steps -= equal;
  }
  return consumed + steps * full_;
}

std::int64_t BatchSizes::first_full_step() const {
  std::int64_t step = 0;
  for (std::int64_t consumed = 0; consumed < rampup_.samples;) {
    const std::int64_t equal = steps_of_equal_size(consumed);
    consumed += equal * at(consumed);
    step += equal;
  }
  return step;
}

}  // namespace neox
