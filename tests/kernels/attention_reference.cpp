#include "tests/kernels/attention_reference.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace neox::test {
namespace {

struct Inputs {
  const AttentionProblem& p;
  const std::vector<double>&q, &k, &v, &dout;
  const ScoreBias& bias;
};

// By the words of kernels/attention_mask.h.
bool sees(const AttentionProblem& p, std::int64_t b, std::int64_t a, std::int64_t i,
          std::int64_t j) {
  const std::int64_t position = i + p.key_length - p.query_length;
  if (p.mask.window > 0 && j < position - p.mask.window) return false;
  if (p.mask.documents) {
    const auto* begins = reinterpret_cast<const std::int32_t*>(p.mask.documents.data);
    if (j < begins[b * p.query_length + i]) return false;
  }
  const BlockPattern& pattern = p.mask.pattern;
  if (pattern.block == 0) return true;
  const std::int64_t blocks = pattern.kept.shape[1], rows = pattern.kept.shape[0];
  const auto* kept = reinterpret_cast<const std::uint8_t*>(pattern.kept.data);
  return kept[((rows == 1 ? 0 : a) * blocks + position / pattern.block) * blocks +
              j / pattern.block] != 0;
}

// One query of one head.
void add_query(const Inputs& in, std::int64_t b, std::int64_t a, std::int64_t i,
               AttentionReference& ref) {
  const auto& p = in.p;
  const std::int64_t kv = a / (p.heads / p.kv_heads);
  const std::int64_t seen = i + p.key_length - p.query_length + 1;
  const std::int64_t row = ((b * p.query_length + i) * p.heads + a) * p.head_dim;
  const auto key = [&](std::int64_t j) {
    return ((b * p.key_length + j) * p.kv_heads + kv) * p.head_dim;
  };
  const auto at = [](const std::vector<double>& x, std::int64_t index) {
    return x[static_cast<std::size_t>(index)];
  };
  const auto n = static_cast<std::size_t>(seen);
  std::vector<double> s(n), keep(n, 1.0);
  double most = -std::numeric_limits<double>::infinity();
  for (std::int64_t j = 0; j < seen; ++j) {
    double dot = 0;
    for (std::int64_t d = 0; d < p.head_dim; ++d) dot += at(in.q, row + d) * at(in.k, key(j) + d);
    s[static_cast<std::size_t>(j)] = sees(p, b, a, i, j) ? dot * static_cast<double>(p.scale) +
                                                               (in.bias ? in.bias(a, i, j) : 0.0)
                                                         : -std::numeric_limits<double>::infinity();
    most = std::max(most, s[static_cast<std::size_t>(j)]);
    if (p.dropout.p > 0) {
      const std::int64_t draw =
          (((p.dropout.first_sample + b) * p.dropout.global_heads + p.dropout.first_head + a) *
               p.query_length +
           i) *
              p.key_length +
          j;
      const float u = uniform01(philox_word(p.dropout.key, static_cast<std::uint64_t>(draw)));
      keep[static_cast<std::size_t>(j)] =
          u >= p.dropout.p ? 1.0 / (1.0 - static_cast<double>(p.dropout.p)) : 0.0;
    }
  }
  double sum = 0;
  for (double& x : s) sum += x = std::exp(x - most);
  ref.lse.add((b * p.heads + a) * p.query_length + i, most + std::log(sum),
              1.0 + std::abs(most) + std::abs(std::log(sum)));
  for (double& x : s) x /= sum;
  for (std::int64_t j = 0; j < seen; ++j) {
    const double prob = s[static_cast<std::size_t>(j)] * keep[static_cast<std::size_t>(j)];
    for (std::int64_t d = 0; d < p.head_dim; ++d) {
      const double x = prob * at(in.v, key(j) + d);
      ref.out.add(row + d, x, std::abs(x));
    }
  }
  if (in.dout.empty()) return;
  double delta = 0, delta_size = 0;
  for (std::int64_t d = 0; d < p.head_dim; ++d) {
    delta += at(in.dout, row + d) * at(ref.out.value, row + d);
    delta_size += std::abs(at(in.dout, row + d)) * at(ref.out.magnitude, row + d);
  }
  for (std::int64_t j = 0; j < seen; ++j) {
    const double prob = s[static_cast<std::size_t>(j)], mask = keep[static_cast<std::size_t>(j)];
    double dp = 0, dp_size = 0;
    for (std::int64_t d = 0; d < p.head_dim; ++d) {
      const double x = at(in.dout, row + d) * at(in.v, key(j) + d);
      dp += x;
      dp_size += std::abs(x);
    }
    const double ds = prob * (mask * dp - delta) * static_cast<double>(p.scale);
    const double ds_size = prob * (mask * dp_size + delta_size) * static_cast<double>(p.scale);
    for (std::int64_t d = 0; d < p.head_dim; ++d) {
      const double kd = at(in.k, key(j) + d), qd = at(in.q, row + d);
      const double dv = prob * mask * at(in.dout, row + d);
      ref.dq.add(row + d, ds * kd, ds_size * std::abs(kd));
      ref.dk.add(key(j) + d, ds * qd, ds_size * std::abs(qd));
      ref.dv.add(key(j) + d, dv, std::abs(dv));
    }
  }
}

}  // namespace

AttentionReference attention_reference(const AttentionProblem& p, const std::vector<double>& q,
                                       const std::vector<double>& k, const std::vector<double>& v,
                                       const std::vector<double>& dout, const ScoreBias& bias) {
  AttentionReference ref;
  const std::int64_t queries = p.batch * p.query_length * p.heads;
  const std::int64_t keys = p.batch * p.key_length * p.kv_heads * p.head_dim;
  ref.out = Reference(queries * p.head_dim);
  ref.lse = Reference(queries);
  ref.dq = Reference(queries * p.head_dim);
  ref.dk = Reference(keys);
  ref.dv = Reference(keys);
  const Inputs in{p, q, k, v, dout, bias};
  for (std::int64_t b = 0; b < p.batch; ++b) {
    for (std::int64_t a = 0; a < p.heads; ++a) {
      for (std::int64_t i = 0; i < p.query_length; ++i) add_query(in, b, a, i, ref);
    }
  }
  return ref;
}

}  // namespace neox::test
