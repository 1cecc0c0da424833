#include <cmath>

#include "tests/kernels/op_cases.h"

namespace neox::testing {
namespace {

struct LinearOptions {
  bool bias = true;
  bool f32_output = false;
  bool accumulate = false;  ///< dx, dw and db
};

/// y = x W^T + b.
void reference(const Arrays& in, Arrays& out, std::int64_t inputs, std::int64_t outputs) {
  const Array &x = in.at("x"), &w = in.at("w");
  const auto k = static_cast<std::size_t>(inputs), n = static_cast<std::size_t>(outputs);
  for (std::size_t i = 0; i < out["y"].size(); ++i) {
    const std::size_t row = i / n, column = i % n;
    double sum = in.contains("b") ? in.at("b")[column] : 0.0;
    for (std::size_t j = 0; j < k; ++j) sum += x[row * k + j] * w[column * k + j];
    out["y"][i] = sum;
  }
}

OpCase linear_case(std::int64_t rows, std::int64_t in, std::int64_t out, DType t,
                   const LinearOptions& o) {
  OpCase test{"linear",
              fmt::format("{} rows {} to {}{}{}{}", rows, in, out, o.bias ? " bias" : "",
                          o.f32_output ? " f32 output" : "", o.accumulate ? " accumulate" : ""),
              t};
  const Shape x{rows, in}, w{out, in}, y{rows, out}, b{out};
  test.inputs = {{"x", x, t, some_values(x, 1)}, {"w", w, t, some_values(w, 2, 0.5)}};
  if (o.bias) test.inputs.push_back({"b", b, t, some_values(b, 3)});
  const DType y_type = o.f32_output ? DType::f32 : t;
  test.outputs = {{"y", y, y_type, tolerance(y_type)}};
  if (o.accumulate) {
    test.inputs.push_back({"dx0", x, t, some_values(x, 4)});
    test.inputs.push_back({"dw0", w, DType::f32, some_values(w, 5)});
    test.inputs.push_back({"db0", b, DType::f32, some_values(b, 6)});
  }
  const auto start = [&](const char* name) { return std::string(o.accumulate ? name : ""); };
  if (!o.f32_output) {  // dy has dtype T
    test.gradients = {{"x", t, tolerance(t), start("dx0"), start("dx0")},
                      {"w", DType::f32, 1e-5, start("dw0"), start("dw0")}};
    if (o.bias) test.gradients.push_back({"b", DType::f32, 1e-5, start("db0"), start("db0")});
    test.backward = [o](const Backend& ops, Stream& s, const OpTensors& v) {
      ops.linear_backward_input(s, v["d_y"], v["w"], v["d_x"], o.accumulate);
      ops.linear_backward_weight(s, v["d_y"], v["x"], v["d_w"], o.bias ? v["d_b"] : Tensor(),
                                 o.accumulate);
    };
  }
  // Weights of the cases before may have lived at the same address.
  test.forward = [o, large = w.numel() > (1 << 16)](const Backend& ops, Stream& s,
                                                    const OpTensors& v) {
    if (!large) ops.weights_changed();
    ops.linear(s, v["x"], v["w"], o.bias ? ConstTensor(v["b"]) : ConstTensor(), v["y"]);
  };
  test.reference = [in, out](const Arrays& from, Arrays& to) { reference(from, to, in, out); };
  return test;
}

}  // namespace

std::vector<OpCase> linear_step_cases(DType t, const StepShape& shape) {
  const std::int64_t rows = shape.rows(), h = shape.hidden();
  return {linear_case(rows, h, 3 * h, t, {true, false, true}),
          linear_case(rows, h, 4 * h, t, {true, false, true}),
          linear_case(rows, 4 * h, h, t, {true, false, true}),
          linear_case(shape.loss_rows, h, shape.vocab, t, {false, true, false})};
}

std::vector<OpCase> linear_cases(DType t, CaseSize size) {
  if (size == CaseSize::gpt2) return linear_step_cases(t, {});
  return {linear_case(5, 33, 19, t, {}),
          linear_case(1, 64, 48, t, {false, false, false}),
          linear_case(37, 20, 65, t, {true, false, true}),
          linear_case(6, 17, 40, t, {false, true, false}),
          linear_case(1, 1, 1, t, {}),
          linear_case(1, 33, 1, t, {}),
          linear_case(3, 1, 17, t, {true, false, true}),
          linear_case(0, 8, 16, t, {}),
          linear_case(0, 8, 16, t, {true, false, true})};
}

}  // namespace neox::testing
