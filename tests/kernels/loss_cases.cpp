#include <cmath>

#include "tests/kernels/op_cases.h"

namespace neox::testing {
namespace {

struct LossOptions {
  DType logits = DType::f32;
  DType gradient = DType::f32;
  bool in_place = false;
  double scale = 2.0;  ///< of the logits
};

/// loss_r = log(sum_j e^z_rj) - z_r,label over the valid columns, 0 in rows of weight 0.
void reference(const Arrays& in, Arrays& out, std::int64_t columns, std::int64_t valid) {
  for (std::size_t r = 0; r < out["losses"].size(); ++r) {
    if (in.at("weights")[r] == 0) continue;
    const double* z = &in.at("logits")[r * static_cast<std::size_t>(columns)];
    const double top = *std::max_element(z, z + valid);
    double sum = 0;
    for (std::int64_t j = 0; j < valid; ++j) sum += std::exp(z[j] - top);
    out["losses"][r] = top + std::log(sum) - z[static_cast<std::size_t>(in.at("labels")[r])];
  }
}

OpCase cross_entropy_case(std::int64_t rows, std::int64_t columns, std::int64_t valid, DType t,
                          const LossOptions& o) {
  OpCase test{
      "cross_entropy",
      fmt::format("{}x{} of {} {} to {}{}{}", rows, valid, columns, name_of(o.logits),
                  name_of(o.gradient), o.in_place ? " in place" : "", o.scale > 10 ? " large" : ""),
      t};
  Array labels = whole_values(rows, 1, valid), weights = normal_values(rows, 2);
  for (std::size_t r = 0; r < weights.size(); ++r) {
    weights[r] = std::abs(weights[r]) + 0.1;
    if (rows < 1000 && r % 3 == 1) {
      weights[r] = 0;
      labels[r] = -1000000000;  // must not be read
    }
  }
  const Shape shape{rows, columns};
  test.inputs = {{"logits", shape, o.logits, some_values(shape, 3, o.scale)},
                 {"labels", {rows}, DType::i32, labels},
                 {"weights", {rows}, DType::f32, weights}};
  test.outputs = {{"losses", {rows}, DType::f32, 2e-6, "", true, "weights"}};
  test.gradients = {{"logits", o.gradient, tolerance(o.gradient), o.in_place ? "logits" : "", ""}};
  test.forward = [valid](const Backend& ops, Stream& s, const OpTensors& v) {
    ops.cross_entropy(s, v["logits"], v["labels"], v["weights"], valid, v["losses"], {});
  };
  test.backward = [valid](const Backend& ops, Stream& s, const OpTensors& v) {
    ops.cross_entropy(s, v["logits"], v["labels"], v["weights"], valid, v["losses"], v["d_logits"]);
  };
  test.reference = [columns, valid](const Arrays& in, Arrays& out) {
    reference(in, out, columns, valid);
  };
  return test;
}

}  // namespace

std::vector<OpCase> loss_cases(DType t, CaseSize size) {
  if (size == CaseSize::gpt2) {
    if (t == DType::f32) return {cross_entropy_case(1024, 50304, 50257, t, {t, t, true, 2.0})};
    return {cross_entropy_case(1024, 50304, 50257, t, {DType::f32, t, false, 2.0}),
            cross_entropy_case(1024, 50304, 50257, t, {t, t, true, 2.0})};
  }
  std::vector<OpCase> cases = {
      cross_entropy_case(5, 37, 37, t, {t, t, false, 2.0}),
      cross_entropy_case(6, 48, 41, t, {t, t, true, 2.0}),
      cross_entropy_case(4, 33, 30, t, {t, t, false, 100.0}),
      cross_entropy_case(2, 130, 1, t, {t, t, true, 2.0}),
      cross_entropy_case(4, 5003, 4999, t, {t, t, true, 2.0}),  // several blocks
      cross_entropy_case(0, 33, 30, t, {t, t, false, 2.0}),
  };
  if (t != DType::f32) {
    cases.push_back(cross_entropy_case(5, 40, 37, t, {DType::f32, t, false, 2.0}));
    cases.push_back(cross_entropy_case(5, 40, 37, t, {t, DType::f32, false, 2.0}));
  }
  return cases;
}

}  // namespace neox::testing
