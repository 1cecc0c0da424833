#pragma once
// Attention in float64, in the obvious loops, with dropout by the formula of kernels/attention.h.

#include <cstdint>
#include <functional>
#include <vector>

#include "kernels/attention.h"

namespace neox::test {

/// A value and the sum of the magnitudes of its terms, which bounds what rounding can do to it.
struct Reference {
  std::vector<double> value;
  std::vector<double> magnitude;
  explicit Reference(std::int64_t n = 0)
      : value(static_cast<std::size_t>(n)), magnitude(static_cast<std::size_t>(n)) {}
  void add(std::int64_t at, double x, double size) {
    value[static_cast<std::size_t>(at)] += x;
    magnitude[static_cast<std::size_t>(at)] += size;
  }
};

struct AttentionReference {
  Reference out, lse;    // [batch, query_length, heads, head_dim]; [batch, heads, query_length]
  Reference dq, dk, dv;  // [batch, length, heads or kv_heads, head_dim]
};

/// What is added to the score of (head, query, key); -inf hides the key.
using ScoreBias = std::function<double(std::int64_t, std::int64_t, std::int64_t)>;

/// q, k, v, dout contiguous as above. `dout` may be empty: forward only.
AttentionReference attention_reference(const AttentionProblem& problem,
                                       const std::vector<double>& q, const std::vector<double>& k,
                                       const std::vector<double>& v,
                                       const std::vector<double>& dout, const ScoreBias& bias = {});

}  // namespace neox::test
