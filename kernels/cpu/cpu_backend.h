#pragma once
// CPU backend: oneDNN for matrix products, our own fused loops for the rest. Each family is
// implemented in the source file of its name.

#include <memory>

#include "kernels/backend.h"

namespace neox {

class CpuGemm;  // oneDNN primitives and packed weights, kernels/cpu/gemm.h

class CpuBackend final : public Backend {
 public:
  CpuBackend();
  ~CpuBackend() override;

  std::string_view name() const override { return "cpu"; }
  Device device() const override { return {}; }
  bool fast(DType dtype) const override;

  void linear(Stream&, ConstTensor x, ConstTensor w, ConstTensor bias, Tensor y) const override;
  void linear_backward_input(Stream&, ConstTensor dy, ConstTensor w, Tensor dx,
                             bool accumulate) const override;
  void linear_backward_weight(Stream&, ConstTensor dy, ConstTensor x, Tensor dw, Tensor db,
                              bool accumulate) const override;
  void weights_changed() const override;

  void layer_norm(Stream&, ConstTensor x, ConstTensor w, ConstTensor b, float eps, Tensor y,
                  Tensor mean, Tensor rstd) const override;
  void layer_norm_backward(Stream&, ConstTensor dy, ConstTensor x, ConstTensor w, ConstTensor mean,
                           ConstTensor rstd, ConstTensor residual_grad, Tensor dx, Tensor dw,
                           Tensor db, bool accumulate) const override;
  void rms_norm(Stream&, ConstTensor x, ConstTensor w, float eps, Tensor y,
                Tensor rstd) const override;
  void rms_norm_backward(Stream&, ConstTensor dy, ConstTensor x, ConstTensor w, ConstTensor rstd,
                         ConstTensor residual_grad, Tensor dx, Tensor dw,
                         bool accumulate) const override;

  void attention(Stream&, const AttentionProblem&, ConstHeads q, ConstHeads k, ConstHeads v,
                 Tensor out, Tensor lse) const override;
  std::size_t attention_backward_workspace(const AttentionProblem&, DType) const override;
  void attention_backward(Stream&, const AttentionProblem&, ConstHeads q, ConstHeads k,
                          ConstHeads v, ConstTensor out, ConstTensor lse, ConstTensor dout,
                          Heads dq, Heads dk, Heads dv, Tensor workspace) const override;
  void rotary(Stream&, Heads x, std::int64_t batch, std::int64_t seq, std::int64_t heads,
              ConstTensor positions, ConstTensor cos_table, ConstTensor sin_table,
              bool inverse) const override;
  void copy_heads(Stream&, ConstHeads from, Heads to, std::int64_t batch, std::int64_t seq,
                  std::int64_t heads, std::int64_t head_dim) const override;

  void activation(Stream&, Activation, ConstTensor x, Tensor y) const override;
  void activation_backward(Stream&, Activation, ConstTensor x, ConstTensor dy,
                           Tensor dx) const override;
  void gated_activation(Stream&, Activation, ConstTensor x, Tensor y) const override;
  void gated_activation_backward(Stream&, Activation, ConstTensor x, ConstTensor dy,
                                 Tensor dx) const override;
  void residual_add(Stream&, ConstTensor residual, ConstTensor a, const Dropout& dropout_a,
                    ConstTensor b, const Dropout& dropout_b, Tensor y) const override;
  void dropout(Stream&, ConstTensor x, const Dropout& dropout, Tensor y) const override;
  void cast(Stream&, ConstTensor x, Tensor y) const override;
  void add_into(Stream&, ConstTensor x, Tensor y) const override;

  void embedding(Stream&, ConstTensor ids, ConstTensor table, std::int64_t first_id,
                 ConstTensor positions, ConstTensor position_table, Tensor y) const override;
  void embedding_backward(Stream&, ConstTensor ids, ConstTensor dy, std::int64_t first_id,
                          Tensor dtable) const override;

  void cross_entropy(Stream&, ConstTensor logits, ConstTensor labels, ConstTensor weights,
                     std::int64_t valid_vocab, Tensor losses, Tensor dlogits) const override;
  void cross_entropy_partial(Stream&, ConstTensor logits, ConstTensor labels, ConstTensor weights,
                             std::int64_t first_column, std::int64_t valid_columns,
                             Tensor stats) const override;
  void cross_entropy_combine(Stream&, ConstTensor logits, ConstTensor labels, ConstTensor weights,
                             std::int64_t first_column, std::int64_t valid_columns,
                             ConstTensor parts, Tensor losses, Tensor dlogits) const override;

  void optimizer_step(Stream&, const UpdateRule&, ConstTensor grad, ConstTensor grad_scale,
                      Tensor main, const UpdateStates& states, Tensor weights) const override;
  void square_sum(Stream&, ConstTensor x, Tensor out, bool accumulate) const override;
  void clip_scale(Stream&, ConstTensor square_sum, float max_norm, float loss_scale,
                  Tensor scale) const override;

  void sm3_maxima(Stream&, const Sm3&, const MatrixPart&, ConstTensor grad, ConstTensor grad_scale,
                  ConstTensor rows, ConstTensor columns, Tensor new_rows,
                  Tensor new_columns) const override;
  void sm3_step(Stream&, const Sm3&, const MatrixPart&, ConstTensor grad, ConstTensor grad_scale,
                ConstTensor rows, ConstTensor columns, Tensor main, Tensor momentum,
                Tensor weights) const override;

  void hash(Stream&, ConstTensor x, Tensor out, bool accumulate) const override;

 private:
  std::unique_ptr<CpuGemm> gemm_;
};

}  // namespace neox
