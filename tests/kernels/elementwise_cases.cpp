#include <array>
#include <cmath>
#include <numbers>

#include "tests/kernels/op_cases.h"

namespace neox::testing {
namespace {

double logistic(double x) {
  return 1 / (1 + std::exp(-x));
}

double act(Activation kind, double x) {
  switch (kind) {
    case Activation::gelu:
      return x / 2 * (1 + std::erf(x / std::numbers::sqrt2));
    case Activation::gelu_tanh:
      return x / 2 * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
    case Activation::silu:
      return x * logistic(x);
    case Activation::relu:
      return std::max(x, 0.0);
    case Activation::squared_relu:
      return x > 0 ? x * x : 0.0;
    case Activation::mish:
      return x * std::tanh(std::log1p(std::exp(x)));
    case Activation::softsign:
      return x / (1 + std::abs(x));
    case Activation::sigmoid:
      return logistic(x);
    case Activation::identity:
      return x;
  }
  fail("no such activation");
}

constexpr std::array<std::pair<Activation, const char*>, 9> kActivations = {
    {{Activation::gelu, "gelu"},
     {Activation::gelu_tanh, "gelu_tanh"},
     {Activation::silu, "silu"},
     {Activation::relu, "relu"},
     {Activation::squared_relu, "squared_relu"},
     {Activation::mish, "mish"},
     {Activation::softsign, "softsign"},
     {Activation::sigmoid, "sigmoid"},
     {Activation::identity, "identity"}}};

/// Inputs of activations, none so near 0 that finite differences would step over relu's kink.
Array activation_values(Shape shape) {
  Array values = some_values(shape, 1, 2.5);
  for (double& v : values) v += v < 0 ? -0.01 : 0.01;
  return values;
}

OpCase activation_case(std::pair<Activation, const char*> kind, Shape shape, DType t,
                       bool in_place) {
  OpCase test{"activation",
              fmt::format("{} {}{}", kind.second, text_of(shape), in_place ? " in place" : ""), t};
  test.inputs = {{"x", shape, t, activation_values(shape)}};
  test.outputs = {{"y", shape, t, tolerance(t, 2e-6), in_place ? "x" : ""}};
  test.forward = [kind](const Backend& ops, Stream& s, const OpTensors& v) {
    ops.activation(s, kind.first, v["x"], v["y"]);
  };
  if (!in_place) {  // backward needs x
    test.gradients = {{"x", t, tolerance(t, 2e-6), shape[0] % 2 == 1 ? "d_y" : "", ""}};
    test.backward = [kind](const Backend& ops, Stream& s, const OpTensors& v) {
      ops.activation_backward(s, kind.first, v["x"], v["d_y"], v["d_x"]);
    };
  }
  test.reference = [kind](const Arrays& in, Arrays& out) {
    for (std::size_t i = 0; i < in.at("x").size(); ++i)
      out["y"][i] = act(kind.first, in.at("x")[i]);
  };
  return test;
}

OpCase gated_case(std::pair<Activation, const char*> kind, std::int64_t rows, std::int64_t f,
                  DType t) {
  OpCase test{"gated_activation", fmt::format("{} {}x{}", kind.second, rows, f), t};
  const Shape both{rows, 2 * f}, one{rows, f};
  test.inputs = {{"x", both, t, activation_values(both)}};
  test.outputs = {{"y", one, t, tolerance(t, 2e-6)}};
  test.gradients = {{"x", t, tolerance(t, 2e-6)}};
  test.forward = [kind](const Backend& ops, Stream& s, const OpTensors& v) {
    ops.gated_activation(s, kind.first, v["x"], v["y"]);
  };
  test.backward = [kind](const Backend& ops, Stream& s, const OpTensors& v) {
    ops.gated_activation_backward(s, kind.first, v["x"], v["d_y"], v["d_x"]);
  };
  test.reference = [kind, f](const Arrays& in, Arrays& out) {
    const Array& x = in.at("x");
    const auto width = static_cast<std::size_t>(f);
    for (std::size_t i = 0; i < out["y"].size(); ++i) {
      const std::size_t gate = i / width * 2 * width + i % width;
      out["y"][i] = act(kind.first, x[gate]) * x[gate + width];
    }
  };
  return test;
}

/// The header's formula, element by element.
double dropped(const Dropout& d, std::int64_t width, std::size_t i, double x) {
  if (d.p == 0.0f) return x;
  const auto row = static_cast<std::int64_t>(i) / width,
             column = static_cast<std::int64_t>(i) % width;
  const std::int64_t sample = d.first_sample + row / d.local_seq;
  const std::int64_t position = d.first_position + row % d.local_seq;
  const std::int64_t index = (sample * d.global_seq + position) * width + column;
  const bool kept = uniform01(philox_word(d.key, static_cast<std::uint64_t>(index))) >= d.p;
  return kept ? x / (1.0 - double{d.p}) : 0.0;
}

Dropout make_dropout(float p, std::uint64_t key, std::int64_t rows) {
  // Two samples' worth of rows, from the middle of longer sequences.
  return {p, RngKey{key}, 3, std::max<std::int64_t>(1, (rows + 1) / 2), 5, 64};
}

/// Rows from `first_row` on of the flat rows of a micro-batch of samples of `seq` positions.
Dropout shard_dropout(float p, std::uint64_t key, std::int64_t first_row, std::int64_t seq) {
  return {p, RngKey{key}, 3, seq, first_row, seq};
}

OpCase dropout_case(Shape shape, DType t, const Dropout& d, bool in_place) {
  OpCase test{"dropout",
              fmt::format("{} p {}{}{}", text_of(shape), d.p,
                          d.local_seq == d.global_seq
                              ? fmt::format(" row {} of {}", d.first_position, d.local_seq)
                              : "",
                          in_place ? " in place" : ""),
              t};
  test.inputs = {{"x", shape, t, some_values(shape, 1)}};
  test.outputs = {{"y", shape, t, tolerance(t, 1e-6), in_place ? "x" : ""}};
  test.gradients = {{"x", t, tolerance(t, 1e-6), in_place ? "d_y" : "", ""}};
  test.forward = [d](const Backend& ops, Stream& s, const OpTensors& v) {
    ops.dropout(s, v["x"], d, v["y"]);
  };
  test.backward = [d](const Backend& ops, Stream& s, const OpTensors& v) {
    ops.dropout(s, v["d_y"], d, v["d_x"]);
  };
  test.reference = [d, width = shape[1]](const Arrays& in, Arrays& out) {
    const Array& x = in.at("x");
    for (std::size_t i = 0; i < x.size(); ++i) out["y"][i] = dropped(d, width, i, x[i]);
  };
  return test;
}

/// `shares`: which operand y overwrites. b may be absent, and the residual. Gradients by a and b
/// are dropout's.
OpCase residual_case(Shape shape, DType t, float p_a, float p_b, bool has_b,
                     const std::string& shares, bool has_residual = true) {
  OpCase test{
      "residual_add",
      fmt::format("{} p {} {}{}{}", text_of(shape), p_a,
                  has_b ? fmt::format("and {}", p_b) : "alone",
                  shares.empty() ? "" : " into " + shares, has_residual ? "" : " no residual"),
      t};
  const Dropout da = make_dropout(p_a, 5, shape[0]), db = make_dropout(p_b, 6, shape[0]);
  test.inputs = {{"a", shape, t, some_values(shape, 2)}};
  if (has_residual) test.inputs.push_back({"residual", shape, t, some_values(shape, 1)});
  if (has_b) test.inputs.push_back({"b", shape, t, some_values(shape, 3)});
  test.outputs = {{"y", shape, t, tolerance(t, 1e-6), shares}};
  test.forward = [=](const Backend& ops, Stream& s, const OpTensors& v) {
    ops.residual_add(s, has_residual ? ConstTensor(v["residual"]) : ConstTensor(), v["a"], da,
                     has_b ? ConstTensor(v["b"]) : ConstTensor(), db, v["y"]);
  };
  test.gradients = {{"a", t, tolerance(t, 1e-6)}};
  if (has_b) test.gradients.push_back({"b", t, tolerance(t, 1e-6)});
  test.backward = [da, db, has_b](const Backend& ops, Stream& s, const OpTensors& v) {
    ops.dropout(s, v["d_y"], da, v["d_a"]);
    if (has_b) ops.dropout(s, v["d_y"], db, v["d_b"]);
  };
  test.reference = [=, width = shape[1]](const Arrays& in, Arrays& out) {
    for (std::size_t i = 0; i < out["y"].size(); ++i) {
      out["y"][i] = (has_residual ? in.at("residual")[i] : 0.0) +
                    dropped(da, width, i, in.at("a")[i]) +
                    (has_b ? dropped(db, width, i, in.at("b")[i]) : 0.0);
    }
  };
  return test;
}

OpCase cast_case(Shape shape, DType from, DType to) {
  OpCase test{"cast", fmt::format("to {} {}", name_of(to), text_of(shape)), from};
  test.inputs = {{"x", shape, from, some_values(shape, 1, 100)}};
  test.outputs = {{"y", shape, to, 0.0}};
  test.forward = [](const Backend& ops, Stream& s, const OpTensors& v) {
    ops.cast(s, v["x"], v["y"]);
  };
  test.reference = [to](const Arrays& in, Arrays& out) {
    for (std::size_t i = 0; i < in.at("x").size(); ++i) out["y"][i] = rounded(in.at("x")[i], to);
  };
  return test;
}

OpCase add_case(Shape shape, DType x_type, DType t) {
  OpCase test{"add_into", fmt::format("{} {}", name_of(x_type), text_of(shape)), t};
  test.inputs = {{"x", shape, x_type, some_values(shape, 1)},
                 {"y0", shape, t, some_values(shape, 2)}};
  test.outputs = {{"y", shape, t, tolerance(t, 1e-6), "y0"}};
  test.forward = [](const Backend& ops, Stream& s, const OpTensors& v) {
    ops.add_into(s, v["x"], v["y"]);
  };
  test.reference = [](const Arrays& in, Arrays& out) {
    for (std::size_t i = 0; i < in.at("x").size(); ++i)
      out["y"][i] = in.at("x")[i] + in.at("y0")[i];
  };
  return test;
}

}  // namespace

std::vector<OpCase> elementwise_step_cases(DType t, const StepShape& shape) {
  std::vector<OpCase> cases;
  const Shape wide{shape.rows(), 4 * shape.hidden()}, hidden{shape.rows(), shape.hidden()};
  for (std::size_t i = 0; i < 3; ++i) {
    cases.push_back(activation_case(kActivations[i], wide, t, false));
  }
  const std::int64_t gated = (shape.hidden() * 8 / 3 + 63) / 64 * 64;
  cases.push_back(gated_case(kActivations[2], shape.rows(), gated, t));
  cases.push_back(residual_case(hidden, t, 0.0f, 0.0f, false, "residual"));
  cases.push_back(residual_case(hidden, t, 0.0f, 0.0f, true, "residual"));
  cases.push_back(residual_case(hidden, t, 0.1f, 0.1f, true, "residual"));
  cases.push_back(dropout_case(hidden, t, make_dropout(0.1f, 77, shape.rows()), true));
  cases.push_back(cast_case(wide, t, t == DType::f32 ? DType::bf16 : DType::f32));
  cases.push_back(add_case(hidden, t, t));
  return cases;
}

std::vector<OpCase> elementwise_cases(DType t, CaseSize size) {
  if (size == CaseSize::gpt2) return elementwise_step_cases(t, {});
  std::vector<OpCase> cases;
  for (const auto& kind : kActivations) {
    cases.push_back(activation_case(kind, {7, 37}, t, false));
    cases.push_back(activation_case(kind, {6, 16}, t, true));
    cases.push_back(gated_case(kind, 5, 19, t));
  }
  cases.push_back(activation_case(kActivations[0], {2, 20001}, t, false));  // several threads
  cases.push_back(activation_case(kActivations[1], {0, 8}, t, false));
  cases.push_back(gated_case(kActivations[2], 300, 70, t));
  cases.push_back(gated_case(kActivations[2], 0, 4, t));
  for (const Shape shape :
       {Shape{6, 37}, Shape{5, 64}, Shape{4, 203}, Shape{300, 70}, Shape{0, 5}}) {
    cases.push_back(dropout_case(shape, t, make_dropout(0.3f, 77, shape[0]), shape[1] == 37));
  }
  cases.push_back(dropout_case({6, 37}, t, make_dropout(0.0f, 77, 6), false));
  cases.push_back(dropout_case({3, 8}, t, make_dropout(0.95f, 77, 3), false));
  cases.push_back(dropout_case({1, 1}, t, make_dropout(0.3f, 77, 1), false));
  cases.push_back(dropout_case({7, 19}, t, shard_dropout(0.3f, 77, 4, 9), false));
  cases.push_back(dropout_case({7, 19}, t, shard_dropout(0.3f, 77, 25, 9), true));
  for (const bool has_b : {false, true}) {
    cases.push_back(residual_case({6, 37}, t, 0.0f, 0.0f, has_b, ""));
    cases.push_back(residual_case({6, 37}, t, 0.1f, 0.0f, has_b, "residual"));
    cases.push_back(residual_case({300, 70}, t, 0.1f, 0.5f, has_b, "a"));
    cases.push_back(residual_case({1, 1}, t, 0.1f, 0.5f, has_b, ""));
    cases.push_back(residual_case({6, 37}, t, 0.0f, 0.0f, has_b, "", false));
    cases.push_back(residual_case({6, 37}, t, 0.1f, 0.5f, has_b, "a", false));
  }
  cases.push_back(residual_case({6, 130}, t, 0.0f, 0.5f, true, "b"));
  cases.push_back(residual_case({6, 130}, t, 0.0f, 0.5f, true, "b", false));
  for (const DType to : {DType::f32, DType::bf16, DType::f16}) {
    cases.push_back(cast_case({3, 47}, t, to));
    cases.push_back(cast_case({1, 1}, t, to));
  }
  cases.push_back(add_case({3, 47}, t, t));
  cases.push_back(add_case({1, 1}, t, t));
  cases.push_back(activation_case(kActivations[0], {1, 1}, t, false));
  cases.push_back(gated_case(kActivations[2], 1, 1, t));
  cases.push_back(gated_case(kActivations[2], 1, 17, t));
  if (t != DType::f32) cases.push_back(add_case({3, 47}, DType::f32, t));
  return cases;
}

}  // namespace neox::testing
