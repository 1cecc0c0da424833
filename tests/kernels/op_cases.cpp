#include "tests/kernels/op_cases.h"

namespace neox::testing {

std::vector<OpCase> all_cases(CaseSize size) {
  std::vector<OpCase> cases;
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    for (const auto family :
         {norm_cases, elementwise_cases, embedding_cases, loss_cases, linear_cases, attention_cases,
          optimizer_cases, factored_cases, hash_cases}) {
      for (OpCase& test : family(dtype, size)) cases.push_back(std::move(test));
    }
  }
  return cases;
}

std::vector<OpCase> step_cases(DType dtype, const StepShape& shape) {
  std::vector<OpCase> cases;
  for (const auto family : {norm_step_cases, elementwise_step_cases, embedding_step_cases,
                            loss_step_cases, linear_step_cases, attention_step_cases,
                            optimizer_step_cases, factored_step_cases, hash_step_cases}) {
    for (OpCase& test : family(dtype, shape)) cases.push_back(std::move(test));
  }
  return cases;
}

double tolerance(DType dtype, double f32) {
  return f32 + (dtype == DType::bf16 ? 0x1p-8 : dtype == DType::f16 ? 0x1p-11 : 0.0);
}

Array some_values(Shape shape, std::uint64_t seed, double scale, double shift) {
  constexpr std::int64_t kSmall = 1 << 16;
  if (shape.numel() > kSmall) return {};
  Array values = normal_values(shape.numel(), seed, scale);
  for (double& v : values) v += shift;
  return values;
}

std::string text_of(Shape shape) {
  std::string text;
  for (int i = 0; i < shape.rank(); ++i) text += fmt::format("{}{}", i == 0 ? "" : "x", shape[i]);
  return text;
}

}  // namespace neox::testing
