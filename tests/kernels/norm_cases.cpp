#include <cmath>

#include "tests/kernels/op_cases.h"

namespace neox::testing {
namespace {

constexpr float kEps = 1e-5f;

/// What backward computes.
enum class Parts { all, input, weight };

struct NormOptions {
  bool bias = true;
  bool residual = false;    ///< backward adds a residual gradient ...
  bool in_place = false;    ///< ... that lives where dx goes
  bool accumulate = false;  ///< dw and db
  Parts parts = Parts::all;
};

std::string variant_of(Shape shape, const NormOptions& o) {
  return text_of(shape) + (o.bias ? "" : " no bias") +
         (o.residual ? o.in_place ? " residual in place" : " residual" : "") +
         (o.accumulate ? " accumulate" : "") +
         (o.parts == Parts::input    ? " input only"
          : o.parts == Parts::weight ? " weight only"
                                     : "");
}

/// xhat w + b of every row, with xhat = (x - mean) / sqrt(mean((x - mean)^2) + eps); rms_norm: mean
/// 0.
void reference(const Arrays& in, Arrays& out, std::int64_t h, bool centered) {
  const Array &x = in.at("x"), &w = in.at("w");
  const auto width = static_cast<std::size_t>(h);
  for (std::size_t r = 0; r < x.size() / width; ++r) {
    const double* row = &x[r * width];
    double mean = 0, square = 0;
    for (std::size_t i = 0; centered && i < width; ++i) mean += row[i] / static_cast<double>(h);
    for (std::size_t i = 0; i < width; ++i) square += (row[i] - mean) * (row[i] - mean);
    const double rstd = 1 / std::sqrt(square / static_cast<double>(h) + double{kEps});
    for (std::size_t i = 0; i < width; ++i) {
      const double b = in.contains("b") ? in.at("b")[i] : 0.0;
      out["y"][r * width + i] = (row[i] - mean) * rstd * w[i] + b;
    }
    if (centered) out["mean"][r] = mean;
    out["rstd"][r] = rstd;
  }
}

void add_gradients(OpCase& test, Shape shape, DType t, const NormOptions& o, bool bias) {
  const Shape width{shape[1]};
  if (o.residual) test.inputs.push_back({"dx0", shape, t, some_values(shape, 5)});
  if (o.parts != Parts::weight) {
    test.gradients.push_back(
        {"x", t, tolerance(t), o.in_place ? "dx0" : "", o.residual ? "dx0" : ""});
  }
  if (o.parts == Parts::input) return;
  for (const std::string name : {"w", "b"}) {
    if (name == "b" && !bias) continue;
    const std::string start = "d" + name + "0";
    if (o.accumulate) test.inputs.push_back({start, width, DType::f32, some_values(width, 6)});
    test.gradients.push_back(
        {name, DType::f32, 1e-5, o.accumulate ? start : "", o.accumulate ? start : ""});
  }
}

/// A gradient, or nothing where the call leaves it out.
Tensor wanted(const OpTensors& t, std::string_view name, bool want) {
  return want ? t[name] : Tensor();
}

ConstTensor residual_of(const OpTensors& t, const NormOptions& o) {
  return o.residual ? ConstTensor(t["dx0"]) : ConstTensor();
}

OpCase layer_norm_case(Shape shape, DType t, NormOptions o) {
  const Shape rows{shape[0]}, width{shape[1]};
  OpCase test{"layer_norm", variant_of(shape, o), t};
  test.inputs = {{"x", shape, t, some_values(shape, 1, 2.0, 0.5)},
                 {"w", width, t, some_values(width, 2, 0.3, 1.0)}};
  if (o.bias) test.inputs.push_back({"b", width, t, some_values(width, 3)});
  test.outputs = {{"y", shape, t, tolerance(t)},
                  {"mean", rows, DType::f32, 1e-5, "", false},
                  {"rstd", rows, DType::f32, 1e-5, "", false}};
  add_gradients(test, shape, t, o, o.bias);
  test.forward = [o](const Backend& ops, Stream& s, const OpTensors& v) {
    ops.layer_norm(s, v["x"], v["w"], o.bias ? ConstTensor(v["b"]) : ConstTensor(), kEps, v["y"],
                   v["mean"], v["rstd"]);
  };
  test.backward = [o](const Backend& ops, Stream& s, const OpTensors& v) {
    const bool weight = o.parts != Parts::input;
    ops.layer_norm_backward(s, v["d_y"], v["x"], v["w"], v["mean"], v["rstd"], residual_of(v, o),
                            wanted(v, "d_x", o.parts != Parts::weight), wanted(v, "d_w", weight),
                            wanted(v, "d_b", o.bias && weight), o.accumulate);
  };
  test.reference = [h = shape[1]](const Arrays& in, Arrays& out) { reference(in, out, h, true); };
  return test;
}

OpCase rms_norm_case(Shape shape, DType t, NormOptions o) {
  const Shape rows{shape[0]}, width{shape[1]};
  o.bias = false;
  OpCase test{"rms_norm", variant_of(shape, o), t};
  test.inputs = {{"x", shape, t, some_values(shape, 1, 2.0, 0.5)},
                 {"w", width, t, some_values(width, 2, 0.3, 1.0)}};
  test.outputs = {{"y", shape, t, tolerance(t)}, {"rstd", rows, DType::f32, 1e-5, "", false}};
  add_gradients(test, shape, t, o, false);
  test.forward = [](const Backend& ops, Stream& s, const OpTensors& v) {
    ops.rms_norm(s, v["x"], v["w"], kEps, v["y"], v["rstd"]);
  };
  test.backward = [o](const Backend& ops, Stream& s, const OpTensors& v) {
    ops.rms_norm_backward(s, v["d_y"], v["x"], v["w"], v["rstd"], residual_of(v, o),
                          wanted(v, "d_x", o.parts != Parts::weight),
                          wanted(v, "d_w", o.parts != Parts::input), o.accumulate);
  };
  test.reference = [h = shape[1]](const Arrays& in, Arrays& out) { reference(in, out, h, false); };
  return test;
}

}  // namespace

std::vector<OpCase> norm_step_cases(DType t, const StepShape& shape) {
  std::vector<OpCase> cases;
  for (const Parts parts : {Parts::all, Parts::input, Parts::weight}) {
    const NormOptions training{true, true, true, true, parts};
    cases.push_back(layer_norm_case({shape.rows(), shape.hidden()}, t, training));
    cases.push_back(rms_norm_case({shape.rows(), shape.hidden()}, t, training));
  }
  return cases;
}

std::vector<OpCase> norm_cases(DType t, CaseSize size) {
  if (size == CaseSize::gpt2) return norm_step_cases(t, {});
  std::vector<OpCase> cases;
  for (const auto make : {layer_norm_case, rms_norm_case}) {
    cases.push_back(make({5, 33}, t, {}));
    cases.push_back(make({3, 64}, t, {true, true, false, false}));
    cases.push_back(make({70, 257}, t, {true, true, true, true}));  // several threads
    cases.push_back(make({4, 3}, t, {true, false, false, true}));
    cases.push_back(make({0, 33}, t, {true, false, false, false}));
    cases.push_back(make({0, 33}, t, {true, true, false, true}));
    cases.push_back(make({1, 1}, t, {true, true, false, false}));  // the norm passes nothing on
    cases.push_back(make({17, 2}, t, {true, true, false, false}));
    cases.push_back(make({1, 17}, t, {true, true, true, false}));
    cases.push_back(make({1, 16}, t, {true, false, false, true}));
    cases.push_back(make({5, 33}, t, {true, true, false, false, Parts::input}));
    cases.push_back(make({70, 257}, t, {true, false, false, false, Parts::input}));
    cases.push_back(make({0, 33}, t, {true, false, false, false, Parts::input}));
    cases.push_back(make({5, 33}, t, {true, false, false, true, Parts::weight}));
    cases.push_back(make({70, 257}, t, {true, true, false, false, Parts::weight}));
    cases.push_back(make({0, 33}, t, {true, false, false, false, Parts::weight}));
  }
  cases.push_back(layer_norm_case({5, 33}, t, {false, false, false, false}));
  cases.push_back(layer_norm_case({5, 33}, t, {false, false, false, true, Parts::weight}));
  return cases;
}

}  // namespace neox::testing
