#include <cmath>

#include "tests/kernels/op_cases.h"

namespace neox::testing {
namespace {

/// A part of a matrix [rows, columns], or of a vector [rows] (columns 0).
struct PartShape {
  const char* name;
  std::int64_t rows, columns, n;
  MatrixPart part;
};

// The whole; a slice of rows and of columns that begins and ends within a row; less than a row; a
// piece of a vector; nothing.
const PartShape kParts[] = {
    {"whole", 9, 13, 117, {0, 13, 0, 0}},        {"tall", 300, 5, 1500, {0, 5, 0, 0}},
    {"wide", 3, 700, 2100, {0, 700, 0, 0}},      {"slice", 20, 33, 61, {5, 11, 4, 22}},
    {"within a row", 6, 40, 7, {45, 20, 2, 20}}, {"vector", 50, 0, 23, {3, 1, 20, 0}},
    {"nothing", 4, 4, 0, {8, 4, 0, 0}},
};

constexpr Sm3 kSum{1.0f, 1.0f, 1e-30f, 0.0f, 0.02f, 0.002f};
constexpr Sm3 kAverage{0.9f, 0.1f, 1e-6f, 0.75f, 0.02f, 0.002f};

std::size_t row_of(const PartShape& shape, std::int64_t i) {
  return static_cast<std::size_t>(shape.part.row + (shape.part.begin + i) / shape.part.width);
}
std::size_t column_of(const PartShape& shape, std::int64_t i) {
  return static_cast<std::size_t>(shape.part.column + (shape.part.begin + i) % shape.part.width);
}

double nu(const PartShape& shape, const Sm3& rule, const Arrays& in, std::int64_t i) {
  const double g = in.at("grad")[static_cast<std::size_t>(i)] * in.at("scale")[0];
  double least = in.at("rows")[row_of(shape, i)];
  if (shape.columns > 0) least = std::min(least, in.at("columns")[column_of(shape, i)]);
  return double{rule.keep} * least + double{rule.rest} * g * g;
}

std::vector<Input> inputs_of(const PartShape& shape) {
  const auto squares = [](std::int64_t n, std::uint64_t seed) {
    Array values = some_values({n}, seed);
    for (double& v : values) v = v * v + 0.01;
    return values;
  };
  std::vector<Input> inputs = {{"grad", {shape.n}, DType::f32, some_values({shape.n}, 1)},
                               {"scale", {1}, DType::f32, {0.7}},
                               {"rows", {shape.rows}, DType::f32, squares(shape.rows, 2)}};
  if (shape.columns > 0) {
    inputs.push_back({"columns", {shape.columns}, DType::f32, squares(shape.columns, 3)});
  }
  return inputs;
}

/// Outputs start at values of which some are larger than what is found.
OpCase maxima_case(const PartShape& shape, const Sm3& rule, const char* kind) {
  OpCase test{"sm3_maxima", fmt::format("{} {}", shape.name, kind), DType::f32};
  const bool matrix = shape.columns > 0;
  test.inputs = inputs_of(shape);
  const auto start = [](std::int64_t n, std::uint64_t seed) {
    Array values = some_values({n}, seed);
    for (double& v : values) v = std::abs(v);
    return values;
  };
  test.inputs.push_back({"rows0", {shape.rows}, DType::f32, start(shape.rows, 4)});
  test.outputs = {{"new_rows", {shape.rows}, DType::f32, 1e-6, "rows0"}};
  if (matrix) {
    test.inputs.push_back({"columns0", {shape.columns}, DType::f32, start(shape.columns, 5)});
    test.outputs.push_back({"new_columns", {shape.columns}, DType::f32, 1e-6, "columns0"});
  }
  test.forward = [=](const Backend& ops, Stream& s, const OpTensors& v) {
    ops.sm3_maxima(s, rule, shape.part, v["grad"], v["scale"], v["rows"],
                   matrix ? v["columns"] : Tensor(), v["new_rows"],
                   matrix ? v["new_columns"] : Tensor());
  };
  test.reference = [=](const Arrays& in, Arrays& out) {
    out["new_rows"] = in.at("rows0");
    if (matrix) out["new_columns"] = in.at("columns0");
    for (std::int64_t i = 0; i < shape.n; ++i) {
      const double value = nu(shape, rule, in, i);
      double& of_row = out["new_rows"][row_of(shape, i)];
      of_row = std::max(of_row, value);
      if (!matrix) continue;
      double& of_column = out["new_columns"][column_of(shape, i)];
      of_column = std::max(of_column, value);
    }
  };
  return test;
}

/// `t` is the dtype of the compute copy; f32 has none.
OpCase step_case(const PartShape& shape, const Sm3& rule, const char* kind, DType t) {
  OpCase test{"sm3_step", fmt::format("{} {}", shape.name, kind), t};
  const bool momentum = rule.momentum > 0;
  test.inputs = inputs_of(shape);
  test.inputs.push_back({"main0", {shape.n}, DType::f32, some_values({shape.n}, 6)});
  test.outputs = {{"main", {shape.n}, DType::f32, 1e-6, "main0"}};
  if (momentum) {
    test.inputs.push_back({"m0", {shape.n}, DType::f32, some_values({shape.n}, 7)});
    test.outputs.push_back({"m", {shape.n}, DType::f32, 1e-6, "m0"});
  }
  if (t != DType::f32) test.outputs.push_back({"weights", {shape.n}, t, tolerance(t, 1e-6)});
  test.forward = [=](const Backend& ops, Stream& s, const OpTensors& v) {
    ops.sm3_step(s, rule, shape.part, v["grad"], v["scale"], v["rows"],
                 shape.columns > 0 ? v["columns"] : Tensor(), v["main"],
                 momentum ? v["m"] : Tensor(), t == DType::f32 ? Tensor() : v["weights"]);
  };
  test.reference = [=](const Arrays& in, Arrays& out) {
    for (std::int64_t i = 0; i < shape.n; ++i) {
      const auto at = static_cast<std::size_t>(i);
      double u = in.at("grad")[at] * in.at("scale")[0] /
                 std::sqrt(nu(shape, rule, in, i) + double{rule.eps});
      if (momentum) {
        const double kept = rule.momentum;
        u = out["m"][at] = kept * in.at("m0")[at] + (1 - kept) * u;
      }
      const double p = in.at("main0")[at];
      out["main"][at] = p - double{rule.lr} * u - double{rule.decay} * p;
      if (t != DType::f32) out["weights"][at] = out["main"][at];
    }
  };
  return test;
}

}  // namespace

std::vector<OpCase> factored_step_cases(DType t, const StepShape& shape) {
  const std::int64_t h = shape.hidden();
  const PartShape matrix{"mlp", 4 * h, h, 4 * h * h, {0, h, 0, 0}};
  std::vector<OpCase> cases = {step_case(matrix, kAverage, "average", t)};
  if (t == DType::f32) cases.push_back(maxima_case(matrix, kAverage, "average"));
  return cases;
}

std::vector<OpCase> factored_cases(DType t, CaseSize size) {
  if (size == CaseSize::gpt2) return factored_step_cases(t, {});
  std::vector<OpCase> cases;
  for (const PartShape& shape : kParts) {
    cases.push_back(step_case(shape, kSum, "sum", t));
    cases.push_back(step_case(shape, kAverage, "average", t));
    if (t != DType::f32) continue;  // maxima know no other dtype
    cases.push_back(maxima_case(shape, kSum, "sum"));
    cases.push_back(maxima_case(shape, kAverage, "average"));
  }
  return cases;
}

}  // namespace neox::testing
