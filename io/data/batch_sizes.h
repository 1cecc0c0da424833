#pragma once
// How many samples each optimizer step takes.

#include <cstdint>

namespace neox {

/// How the batch grows: [batch] rampup_batch_size.
struct BatchRampup {
  std::int64_t start = 0;      ///< samples of the first step
  std::int64_t increment = 0;  ///< by which the batch grows
  std::int64_t samples = 0;    ///< consumed when the batch is full; 0: it is full from the start
};

/// A step's batch is a pure function of the samples c that the run consumed before it:
///   full                                          c >= samples, or no ramp-up
///   start + increment floor(c n / samples)        before; n = (full - start) / increment
/// (Megatron-LM's --rampup-batch-size, in whole numbers). The sizes never shrink.
class BatchSizes {
 public:
  // NOLINTNEXTLINE(google-explicit-constructor): a number is a batch that does not grow.
  BatchSizes(std::int64_t full = 0) : full_(full) {}
  /// Throws Error unless the batch gets from `start` to `full` by whole increments.
  BatchSizes(std::int64_t full, const BatchRampup& rampup);

  /// Samples of the step that begins after `consumed` samples.
  std::int64_t at(std::int64_t consumed) const;
  /// Samples consumed after `steps` more steps, where `consumed` were before them.
  std::int64_t after(std::int64_t consumed, std::int64_t steps) const;
  /// The first step of full() samples (0-based) of a run from its beginning.
  std::int64_t first_full_step() const;

  std::int64_t full() const { return full_; }
  bool grows() const { return rampup_.samples > 0; }
  const BatchRampup& rampup() const { return rampup_; }

 private:
  std::int64_t increments() const { return (full_ - rampup_.start) / rampup_.increment; }
  // Steps in a row, from `consumed` on, that take as many samples as the first of them.
  std::int64_t steps_of_equal_size(std::int64_t consumed) const;

  std::int64_t full_;
  BatchRampup rampup_;
};

}  // namespace neox
