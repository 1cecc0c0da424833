#include <array>
#include <cmath>
#include <string>

#include "tests/kernels/op_cases.h"

namespace neox::testing {
namespace {

/// `t` is the dtype of the compute copy; f32 has none.
OpCase adamw_case(std::int64_t n, DType t, const AdamW& hyper) {
  OpCase test{"adamw", fmt::format("{} step {}", n, hyper.step), t};
  const Shape shape{n};
  Array second = some_values(shape, 4, 0.1);
  for (double& v : second) v *= v;
  test.inputs = {{"grad", shape, DType::f32, some_values(shape, 1)},
                 {"scale", {1}, DType::f32, {0.7}},
                 {"main0", shape, DType::f32, some_values(shape, 2)},
                 {"m0", shape, DType::f32, some_values(shape, 3, 0.1)},
                 {"v0", shape, DType::f32, second}};
  test.outputs = {{"main", shape, DType::f32, 1e-6, "main0"},
                  {"m", shape, DType::f32, 1e-6, "m0"},
                  {"v", shape, DType::f32, 1e-6, "v0"}};
  if (t != DType::f32) test.outputs.push_back({"weights", shape, t, tolerance(t, 1e-6)});
  test.forward = [hyper, t](const Backend& ops, Stream& s, const OpTensors& v) {
    ops.optimizer_step(s, adamw_rule(hyper), v["grad"], v["scale"], v["main"], {v["m"], v["v"]},
                       t == DType::f32 ? Tensor() : v["weights"]);
  };
  test.reference = [hyper, t](const Arrays& in, Arrays& out) {
    const double b1 = hyper.beta1, b2 = hyper.beta2, steps = static_cast<double>(hyper.step);
    for (std::size_t i = 0; i < in.at("grad").size(); ++i) {
      const double g = in.at("grad")[i] * in.at("scale")[0], p = in.at("main0")[i];
      const double m = out["m"][i] = b1 * in.at("m0")[i] + (1 - b1) * g;
      const double v = out["v"][i] = b2 * in.at("v0")[i] + (1 - b2) * g * g;
      const double m_hat = m / (1 - std::pow(b1, steps)), v_hat = v / (1 - std::pow(b2, steps));
      out["main"][i] = p - double{hyper.lr} * (m_hat / (std::sqrt(v_hat) + double{hyper.eps}) +
                                               double{hyper.weight_decay} * p);
      if (t != DType::f32) out["weights"][i] = out["main"][i];
    }
  };
  return test;
}

/// The rules besides AdamW's, and their formulas in f64: s are the states.
struct RuleCase {
  const char* name;
  UpdateRule rule;
  double (*formula)(double g, double p, double* s);
};

double adam(double g, double* s) {  // beta1 0.9, beta2 0.95, eps 1e-6, t = 7; without lr
  s[0] = 0.9 * s[0] + 0.1 * g;
  s[1] = 0.95 * s[1] + 0.05 * g * g;
  return s[0] / (1 - std::pow(0.9, 7)) / (std::sqrt(s[1] / (1 - std::pow(0.95, 7))) + 1e-6);
}
double madgrad(double* s) {
  return s[1] / (std::cbrt(s[0]) + 1e-6);
}

std::vector<RuleCase> rule_cases() {
  const AdamWRule step = adamw_rule({0.01f, 0.9f, 0.95f, 1e-6f, 0.0f, 7});
  const AdamWRule unit = adamw_rule({1.0f, 0.9f, 0.95f, 1e-6f, 0.0f, 7});
  return {
      {"adam_l2", AdamL2Rule{step, 0.1f},
       [](double g, double p, double* s) { return p - 0.01 * adam(g + 0.1 * p, s); }},
      {"lamb_update", LambUpdateRule{unit, 0.1f},
       [](double g, double, double* s) { return adam(g, s) + 0.1 * s[2]; }},
      {"lion", LionRule{0.9f, 0.99f, 0.1f, 0.01f, 0.02f, 0.002f},
       [](double g, double p, double* s) {
         const double mixed = 0.9 * s[0] + 0.1 * g;
         s[0] = 0.99 * s[0] + 0.01 * g;
         return p - 0.002 * p - (mixed > 0 ? 0.02 : mixed < 0 ? -0.02 : 0.0);
       }},
      {"sgd", SgdRule{0.1f, 0.01f},
       [](double g, double p, double*) { return p - 0.1 * (g + 0.01 * p); }},
      {"momentum", MomentumRule{0.1f, 0.01f, 0.9f, false},
       [](double g, double p, double* s) {
         s[0] = 0.9 * s[0] + g + 0.01 * p;
         return p - 0.1 * s[0];
       }},
      {"nesterov", MomentumRule{0.1f, 0.01f, 0.9f, true},
       [](double g, double p, double* s) {
         s[0] = 0.9 * s[0] + g + 0.01 * p;
         return p - 0.1 * (g + 0.01 * p + 0.9 * s[0]);
       }},
      {"madgrad", MadgradRule{0.05f, 1e-6f, 0.25f, 0.001f, false},
       [](double g, double p, double* s) {
         s[0] += 0.05 * g * g;
         s[1] += 0.05 * g;
         return 0.75 * (p - 0.001 * p) + 0.25 * (s[2] - madgrad(s));
       }},
      {"madgrad_first", MadgradRule{0.05f, 1e-6f, 0.25f, 0.001f, true},
       [](double g, double p, double* s) {
         s[2] = p;
         s[0] += 0.05 * g * g;
         s[1] += 0.05 * g;
         return 0.75 * (p - 0.001 * p) + 0.25 * (p - madgrad(s));
       }},
      {"madgrad_plain", MadgradPlainRule{0.05f, 1e-6f, 0.001f},
       [](double g, double p, double* s) {
         const double x0 = p - 0.001 * p + madgrad(s);
         s[0] += 0.05 * g * g;
         s[1] += 0.05 * g;
         return x0 - madgrad(s);
       }},
  };
}

/// `t` as above. The second state, and the first of MADGRAD, are running squares.
OpCase rule_case(std::int64_t n, DType t, const RuleCase& what) {
  OpCase test{what.name, fmt::format("{}", n), t};
  const Shape shape{n};
  const auto states = static_cast<std::size_t>(
      std::visit([](const auto& rule) { return rule.kStates; }, what.rule));
  const bool squares_first = std::string(what.name).starts_with("madgrad");
  static const std::array<const char*, 3> names = {"s0", "s1", "s2"};
  static const std::array<const char*, 3> starts = {"start0", "start1", "start2"};
  test.inputs = {{"grad", shape, DType::f32, some_values(shape, 1)},
                 {"scale", {1}, DType::f32, {0.7}},
                 {"main0", shape, DType::f32, some_values(shape, 2)}};
  test.outputs = {{"main", shape, DType::f32, 5e-6, "main0"}};
  for (std::size_t i = 0; i < states; ++i) {
    Array values = some_values(shape, 3 + i, 0.5);
    const bool squares = squares_first ? i == 0 : i == 1;
    for (double& v : values) v = squares ? v * v + 0.01 : v;
    test.inputs.push_back({starts[i], shape, DType::f32, values});
    test.outputs.push_back({names[i], shape, DType::f32, 1e-6, starts[i]});
  }
  if (t != DType::f32) test.outputs.push_back({"weights", shape, t, tolerance(t, 5e-6)});
  test.forward = [=](const Backend& ops, Stream& s, const OpTensors& v) {
    UpdateStates kept;
    for (std::size_t i = 0; i < states; ++i) kept[i] = v[names[i]];
    ops.optimizer_step(s, what.rule, v["grad"], v["scale"], v["main"], kept,
                       t == DType::f32 ? Tensor() : v["weights"]);
  };
  test.reference = [=](const Arrays& in, Arrays& out) {
    for (std::size_t i = 0; i < in.at("grad").size(); ++i) {
      double kept[3] = {};
      for (std::size_t k = 0; k < states; ++k) kept[k] = in.at(starts[k])[i];
      const double next =
          what.formula(in.at("grad")[i] * in.at("scale")[0], in.at("main0")[i], kept);
      out["main"][i] = next;
      for (std::size_t k = 0; k < states; ++k) out[names[k]][i] = kept[k];
      if (t != DType::f32) out["weights"][i] = next;
    }
  };
  return test;
}

OpCase square_sum_case(std::int64_t n, bool accumulate) {
  OpCase test{"square_sum", fmt::format("{}{}", n, accumulate ? " accumulate" : ""), DType::f32};
  test.inputs = {{"x", {n}, DType::f32, some_values({n}, 1)}, {"sum0", {1}, DType::f64, {3.5}}};
  test.outputs = {{"sum", {1}, DType::f64, 1e-9, "sum0"}};
  test.forward = [accumulate](const Backend& ops, Stream& s, const OpTensors& v) {
    ops.square_sum(s, v["x"], v["sum"], accumulate);
  };
  test.reference = [accumulate](const Arrays& in, Arrays& out) {
    double sum = accumulate ? in.at("sum0")[0] : 0.0;
    for (const double x : in.at("x")) sum += x * x;
    out["sum"][0] = sum;
  };
  return test;
}

OpCase clip_scale_case(double square_sum, float max_norm, float loss_scale) {
  OpCase test{"clip_scale", fmt::format("{} / {} to {}", square_sum, loss_scale, max_norm),
              DType::f32};
  test.inputs = {{"sum", {1}, DType::f64, {square_sum}}};
  test.outputs = {{"scale", {1}, DType::f32, 1e-6}};
  test.forward = [=](const Backend& ops, Stream& s, const OpTensors& v) {
    ops.clip_scale(s, v["sum"], max_norm, loss_scale, v["scale"]);
  };
  test.reference = [=](const Arrays& in, Arrays& out) {
    const double unscale = 1.0 / loss_scale;
    const double norm = std::sqrt(in.at("sum")[0]) * unscale;
    out["scale"][0] =
        unscale * (max_norm <= 0 ? 1.0 : std::min(1.0, double{max_norm} / (norm + 1e-6)));
  };
  return test;
}

const AdamW kFirst{1e-2f, 0.9f, 0.95f, 1e-8f, 0.1f, 1};

}  // namespace

std::vector<OpCase> optimizer_step_cases(DType t, const StepShape& shape) {
  std::vector<OpCase> cases = {adamw_case(shape.parameters, t, kFirst)};
  if (t == DType::f32) cases.push_back(square_sum_case(shape.parameters, false));
  return cases;
}

std::vector<OpCase> optimizer_cases(DType t, CaseSize size) {
  if (size == CaseSize::gpt2) return optimizer_step_cases(t, {});
  const AdamW& first = kFirst;
  AdamW later = first;
  later.step = 1000;
  std::vector<OpCase> cases = {adamw_case(1037, t, first), adamw_case(40000, t, later),
                               adamw_case(0, t, first)};
  for (const RuleCase& rule : rule_cases()) cases.push_back(rule_case(1037, t, rule));
  if (t == DType::f32) {  // the norms know no other dtype
    cases.push_back(square_sum_case(1037, false));
    cases.push_back(square_sum_case(50001, true));
    cases.push_back(square_sum_case(0, true));
    for (const float scale : {1.0f, 1024.0f, 1000.0f}) {
      const double squares = double{scale} * scale;
      cases.push_back(clip_scale_case(4.0 * squares, 1.0f, scale));
      cases.push_back(clip_scale_case(0.25 * squares, 1.0f, scale));
      cases.push_back(clip_scale_case(4.0 * squares, 0.0f, scale));
    }
  }
  return cases;
}

}  // namespace neox::testing
