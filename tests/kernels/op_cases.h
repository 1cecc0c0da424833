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
std::vector<OpCase> hash_cases(DType dtype, CaseSize size);

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
