#pragma once
// The cases of all operators, by family. Small shapes are odd on purpose.

#include "tests/kernels/op_harness.h"

namespace neox::testing {

/// What a family's cases are for: small shapes with references, or the shapes of one GPT-2 124M
/// step of 1024 tokens, for timing.
enum class CaseSize { small, gpt2 };

std::vector<OpCase> norm_cases(DType dtype, CaseSize size);
std::vector<OpCase> elementwise_cases(DType dtype, CaseSize size);
std::vector<OpCase> embedding_cases(DType dtype, CaseSize size);
std::vector<OpCase> loss_cases(DType dtype, CaseSize size);
std::vector<OpCase> linear_cases(DType dtype, CaseSize size);
std::vector<OpCase> attention_cases(DType dtype, CaseSize size);
std::vector<OpCase> optimizer_cases(DType dtype, CaseSize size);
std::vector<OpCase> factored_cases(DType dtype, CaseSize size);
std::vector<OpCase> hash_cases(DType dtype, CaseSize size);

/// Sizes of a training step, for timing. Defaults: GPT-2 124M.
struct StepShape {
  std::int64_t batch = 1, seq = 1024;
  std::int64_t heads = 12, head_dim = 64;
  std::int64_t loss_rows = 1024;  ///< that logits are made for at once
  std::int64_t vocab = 50304, valid_vocab = 50257;
  std::int64_t parameters = 32 << 20;  ///< of one optimizer call; about a quarter of GPT-2 124M
  std::int64_t rows() const { return batch * seq; }
  std::int64_t hidden() const { return heads * head_dim; }
};
std::vector<OpCase> norm_step_cases(DType dtype, const StepShape& shape);
std::vector<OpCase> elementwise_step_cases(DType dtype, const StepShape& shape);
std::vector<OpCase> embedding_step_cases(DType dtype, const StepShape& shape);
std::vector<OpCase> loss_step_cases(DType dtype, const StepShape& shape);
std::vector<OpCase> linear_step_cases(DType dtype, const StepShape& shape);
std::vector<OpCase> attention_step_cases(DType dtype, const StepShape& shape);
std::vector<OpCase> optimizer_step_cases(DType dtype, const StepShape& shape);
std::vector<OpCase> factored_step_cases(DType dtype, const StepShape& shape);
std::vector<OpCase> hash_step_cases(DType dtype, const StepShape& shape);
/// Every family in one dtype.
std::vector<OpCase> step_cases(DType dtype, const StepShape& shape);

/// Every family in f32, bf16 and f16.
std::vector<OpCase> all_cases(CaseSize size);

/// Allowed error of a result whose only 16-bit rounding is that of its storage: `f32`, plus half a
/// unit in the last place of the dtype.
double tolerance(DType dtype, double f32 = 1e-5);
/// Random values for small tensors, none for large ones (which only measure speed).
Array some_values(Shape shape, std::uint64_t seed, double scale = 1.0, double shift = 0.0);
/// "5x33"
std::string text_of(Shape shape);

}  // namespace neox::testing
