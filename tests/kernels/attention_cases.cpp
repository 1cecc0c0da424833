#include <cmath>

#include "tests/kernels/op_cases.h"

namespace neox::testing {
namespace {

/// q, k and v in one fused projection: rows are [heads q | kv_heads k | kv_heads v].
std::int64_t fused_width(const AttentionProblem& p) {
  return (p.heads + 2 * p.kv_heads) * p.head_dim;
}

struct FusedHeads {
  Heads q, k, v;
  FusedHeads(const AttentionProblem& p, Tensor fused)
      : q(fused, p.query_length, 0, p.head_dim),
        k(fused, p.query_length, p.heads * p.head_dim, p.head_dim),
        v(fused, p.query_length, (p.heads + p.kv_heads) * p.head_dim, p.head_dim) {}
};

/// ALiBi's slopes as its authors list them.
double slope_of(const AlibiBias& bias, std::int64_t head) {
  if (bias.global_heads == 0) return 0.0;
  const auto of_power = [](double n) {
    std::vector<double> slopes;
    for (double k = 1; k <= n; ++k) slopes.push_back(std::pow(std::pow(2, -8 / n), k));
    return slopes;
  };
  const double power = std::exp2(std::floor(std::log2(static_cast<double>(bias.global_heads))));
  std::vector<double> all = of_power(power);
  const std::vector<double> finer = of_power(2 * power);
  for (std::size_t k = 0; all.size() < static_cast<std::size_t>(bias.global_heads); k += 2) {
    all.push_back(finer[k]);
  }
  return all[static_cast<std::size_t>(bias.first_head + head)];
}

/// out = dropout(softmax(scale q k^T - ALiBi, causal)) v, one query of one head after the other.
void reference(const AttentionProblem& p, const Arrays& in, Arrays& out) {
  const Array& qkv = in.at("qkv");
  const std::int64_t d = p.head_dim, width = fused_width(p);
  const auto at = [&](std::int64_t b, std::int64_t s, std::int64_t head, std::int64_t c) {
    return qkv[static_cast<std::size_t>((b * p.query_length + s) * width + head * d + c)];
  };
  for (std::int64_t b = 0; b < p.batch; ++b) {
    for (std::int64_t a = 0; a < p.heads; ++a) {
      const std::int64_t kv = a / (p.heads / p.kv_heads);
      const double slope = slope_of(p.alibi, a);
      for (std::int64_t i = 0; i < p.query_length; ++i) {
        Array e(static_cast<std::size_t>(i + 1));
        double sum = 0;
        for (std::int64_t j = 0; j <= i; ++j) {
          double score = 0;
          for (std::int64_t c = 0; c < d; ++c) score += at(b, i, a, c) * at(b, j, p.heads + kv, c);
          sum += e[static_cast<std::size_t>(j)] =
              std::exp(score * double{p.scale} - slope * static_cast<double>(i - j));
        }
        out["lse"][static_cast<std::size_t>((b * p.heads + a) * p.query_length + i)] =
            std::log(sum);
        for (std::int64_t j = 0; j <= i; ++j) {
          const std::int64_t head = (b + p.dropout.first_sample) * p.dropout.global_heads + a;
          const std::int64_t index =
              ((head + p.dropout.first_head) * p.query_length + i) * p.key_length + j;
          const auto draw = philox_word(p.dropout.key, static_cast<std::uint64_t>(index));
          const bool kept = p.dropout.p == 0 || uniform01(draw) >= p.dropout.p;
          const double probability =
              kept ? e[static_cast<std::size_t>(j)] / sum / (1 - double{p.dropout.p}) : 0.0;
          for (std::int64_t c = 0; c < d; ++c) {
            out["out"]
               [static_cast<std::size_t>(((b * p.query_length + i) * p.heads + a) * d + c)] +=
                probability * at(b, j, p.heads + p.kv_heads + kv, c);
          }
        }
      }
    }
  }
}

OpCase attention_case(AttentionProblem p, DType t) {
  p.key_length = p.query_length;
  p.scale = 1 / std::sqrt(static_cast<float>(p.head_dim));
  p.dropout.key = RngKey{31};
  p.dropout.first_sample = 2;
  p.dropout.first_head = 1;
  p.dropout.global_heads = p.heads + 3;
  OpCase test{"attention",
              fmt::format("{}x{} heads {} of {} dim {}{}{}", p.batch, p.query_length, p.heads,
                          p.kv_heads, p.head_dim, p.dropout.p > 0 ? " dropout" : "",
                          p.alibi.global_heads > 0 ? " alibi" : ""),
              t};
  const Shape fused{p.batch * p.query_length, fused_width(p)};
  const Shape out{p.batch, p.query_length, p.heads * p.head_dim};
  // Products take 16-bit probabilities, and backward the rounded output: several roundings.
  const double allowed = t == DType::f32 ? 1e-5 : 8 * tolerance(t);
  test.inputs = {{"qkv", fused, t, some_values(fused, 1)}};
  test.outputs = {{"out", out, t, allowed},
                  {"lse", {p.batch, p.heads, p.query_length}, DType::f32, allowed, "", false}};
  test.gradients = {{"qkv", t, allowed}};
  test.forward = [p](const Backend& ops, Stream& s, const OpTensors& v) {
    const FusedHeads in(p, v["qkv"]);
    ops.attention(s, p, in.q, in.k, in.v, v["out"], v["lse"]);
  };
  test.backward = [p, t](const Backend& ops, Stream& s, const OpTensors& v) {
    const FusedHeads in(p, v["qkv"]), grad(p, v["d_qkv"]);
    ops.attention_backward(s, p, in.q, in.k, in.v, v["out"], v["lse"], v["d_out"], grad.q, grad.k,
                           grad.v, v.workspace(ops.attention_backward_workspace(p, t)));
  };
  test.reference = [p](const Arrays& in, Arrays& to) { reference(p, in, to); };
  return test;
}

AttentionProblem problem(std::int64_t batch, std::int64_t seq, std::int64_t heads,
                         std::int64_t kv_heads, std::int64_t head_dim, float dropout = 0.0f) {
  AttentionProblem p;
  p.batch = batch;
  p.query_length = seq;
  p.heads = heads;
  p.kv_heads = kv_heads;
  p.head_dim = head_dim;
  p.dropout.p = dropout;
  return p;
}

AttentionProblem with_alibi(AttentionProblem p, std::int64_t first_head,
                            std::int64_t global_heads) {
  p.alibi = {first_head, global_heads};
  return p;
}

/// Rotates the first 2 half channels of every head of x [batch*seq, heads*head_dim].
OpCase rotary_case(std::int64_t batch, std::int64_t seq, std::int64_t heads, std::int64_t head_dim,
                   std::int64_t half, DType t) {
  OpCase test{"rotary",
              fmt::format("{}x{} heads {} dim {} of {}", batch, seq, heads, 2 * half, head_dim), t};
  const std::int64_t rows = batch * seq, positions = 2 * seq + 1;
  const Shape shape{rows, heads * head_dim}, table{positions, half};
  Array cosines = normal_values(table.numel(), 3), sines = cosines;
  for (double& v : cosines) v = std::cos(v);
  for (double& v : sines) v = std::sin(v);
  test.inputs = {{"x", shape, t, some_values(shape, 1)},
                 {"positions", {rows}, DType::i32, whole_values(rows, 2, positions)},
                 {"cos", table, DType::f32, cosines},
                 {"sin", table, DType::f32, sines}};
  test.outputs = {{"y", shape, t, tolerance(t), "x"}};
  test.gradients = {{"x", t, tolerance(t), "d_y", ""}};
  const auto rotate = [=](const Backend& ops, Stream& s, const OpTensors& v, Tensor x,
                          bool inverse) {
    ops.rotary(s, Heads(x, seq, 0, head_dim), batch, seq, heads, v["positions"], v["cos"], v["sin"],
               inverse);
  };
  test.forward = [rotate](const Backend& ops, Stream& s, const OpTensors& v) {
    rotate(ops, s, v, v["y"], false);
  };
  test.backward = [rotate](const Backend& ops, Stream& s, const OpTensors& v) {
    rotate(ops, s, v, v["d_x"], true);
  };
  test.reference = [=](const Arrays& in, Arrays& out) {
    const Array &x = in.at("x"), &place = in.at("positions");
    Array& y = out["y"] = x;
    for (std::int64_t i = 0; i < rows * heads; ++i) {
      for (std::int64_t c = 0; c < half; ++c) {
        const auto a = static_cast<std::size_t>(i * head_dim + c),
                   b = a + static_cast<std::size_t>(half);
        const auto row = static_cast<std::int64_t>(place[static_cast<std::size_t>(i / heads)]);
        const auto angle = static_cast<std::size_t>(row * half + c);
        y[a] = x[a] * in.at("cos")[angle] - x[b] * in.at("sin")[angle];
        y[b] = x[b] * in.at("cos")[angle] + x[a] * in.at("sin")[angle];
      }
    }
  };
  return test;
}

/// Heads of a fused projection into a cache of another layout, [heads, batch, seq, head_dim].
OpCase copy_heads_case(std::int64_t batch, std::int64_t seq, std::int64_t heads,
                       std::int64_t head_dim, DType t) {
  OpCase test{"copy_heads", fmt::format("{}x{} heads {} dim {}", batch, seq, heads, head_dim), t};
  const std::int64_t width = 2 * heads * head_dim, step = 2 * head_dim;
  test.inputs = {{"x", {batch * seq, width}, t, some_values({batch * seq, width}, 1)}};
  test.outputs = {{"y", {heads, batch, seq, head_dim}, t, 0.0}};
  test.forward = [=](const Backend& ops, Stream& s, const OpTensors& v) {
    Heads to;
    to.data = v["y"].data;
    to.dtype = t;
    to.device = v["y"].device;
    to.head_stride = batch * seq * head_dim;
    to.batch_stride = seq * head_dim;
    to.row_stride = head_dim;
    ops.copy_heads(s, Heads(v["x"], seq, head_dim, step), to, batch, seq, heads, head_dim);
  };
  test.reference = [=](const Arrays& in, Arrays& out) {
    std::size_t i = 0;
    for (std::int64_t a = 0; a < heads; ++a) {
      for (std::int64_t row = 0; row < batch * seq; ++row) {
        for (std::int64_t c = 0; c < head_dim; ++c) {
          out["y"][i++] =
              in.at("x")[static_cast<std::size_t>(row * width + head_dim + a * step + c)];
        }
      }
    }
  };
  return test;
}

}  // namespace

std::vector<OpCase> attention_step_cases(DType t, const StepShape& shape) {
  const std::int64_t heads = shape.heads, dim = shape.head_dim;
  std::vector<OpCase> cases;
  if (shape.seq >= 4) {  // shorter sequences, as many tokens
    cases.push_back(attention_case(problem(4 * shape.batch, shape.seq / 4, heads, heads, dim), t));
  }
  cases.push_back(attention_case(problem(shape.batch, shape.seq, heads, heads, dim), t));
  cases.push_back(rotary_case(shape.batch, shape.seq, heads, dim, dim / 2, t));
  return cases;
}

std::vector<OpCase> attention_cases(DType t, CaseSize size) {
  if (size == CaseSize::gpt2) return attention_step_cases(t, {});
  return {attention_case(problem(2, 7, 2, 2, 8), t),
          attention_case(problem(1, 70, 1, 1, 16), t),
          attention_case(problem(2, 9, 4, 2, 12), t),
          attention_case(problem(1, 11, 3, 1, 16, 0.25f), t),
          attention_case(problem(1, 1, 1, 1, 8), t),
          attention_case(problem(3, 1, 2, 1, 17), t),
          attention_case(problem(1, 17, 1, 1, 1), t),
          attention_case(with_alibi(problem(2, 9, 2, 2, 8), 1, 4), t),
          attention_case(with_alibi(problem(1, 70, 4, 2, 16), 2, 6), t),
          attention_case(with_alibi(problem(1, 11, 3, 1, 16, 0.25f), 0, 3), t),
          attention_case(with_alibi(problem(1, 1, 2, 1, 8), 0, 2), t),
          rotary_case(2, 5, 3, 16, 8, t),
          rotary_case(1, 1, 1, 2, 1, t),
          rotary_case(1, 7, 2, 20, 3, t),
          copy_heads_case(2, 5, 3, 8, t),
          copy_heads_case(1, 1, 1, 1, t)};
}

}  // namespace neox::testing
