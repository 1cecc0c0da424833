#pragma once
// The backend that computes nothing: it counts. Run any model code through it to learn its memory
// (with a measuring Arena), its arithmetic and its memory traffic, for any device, without one.

#include <array>

#include "kernels/backend.h"

namespace neox {

/// One entry for each header of kernels/.
enum class OperatorFamily : std::uint8_t {
  linear,
  norm,
  attention,
  elementwise,
  embedding,
  loss,
  optimizer,
  hash
};
inline constexpr std::size_t kOperatorFamilies = 8;
/// "linear", "norm", ...
std::string_view name_of(OperatorFamily family);

/// Work of some operator calls. Bytes are the tensors' own: each input read once, each output
/// written once, as if nothing stayed in a cache and nothing was recomputed.
struct OperatorCounts {
  std::int64_t calls = 0;
  /// Of matrix products and attention only, a multiply and an add counting as two. Attention counts
  /// the visible (causal) pairs; its backward counts twice its forward, without recomputed scores:
  /// so these are the FLOPs of MFU, not of HFU. A double, because a step of a large model exceeds
  /// 64 bits.
  double flops = 0;
  std::int64_t bytes_read = 0;
  std::int64_t bytes_written = 0;
  OperatorCounts& operator+=(const OperatorCounts& other);
};

/// Accepts tensors without memory (data == nullptr) and never touches any.
class DryRunBackend : public Backend {
 public:
  /// Pretends to be `device`. `real` answers what depends on an implementation: fast() and the
  /// workspace of attention_backward; it must outlive this object.
  DryRunBackend(Device device, const Backend& real) : device_(device), real_(real) {}

  const OperatorCounts& counts(OperatorFamily family) const {
    return counts_[static_cast<std::size_t>(family)];
  }
  OperatorCounts total() const;
  void reset_counts() const { counts_ = {}; }

  std::string_view name() const override { return "dry-run"; }
  Device device() const override { return device_; }
  bool fast(DType dtype) const override { return real_.fast(dtype); }

  void linear(Stream&, ConstTensor x, ConstTensor w, ConstTensor bias, Tensor y) const override;
  void linear_backward_input(Stream&, ConstTensor dy, ConstTensor w, Tensor dx,
                             bool accumulate) const override;
  void linear_backward_weight(Stream&, ConstTensor dy, ConstTensor x, Tensor dw, Tensor db,
                              bool accumulate) const override;
  void weights_changed() const override {}

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
  std::size_t attention_backward_workspace(const AttentionProblem& problem,
                                           DType dtype) const override {
    return real_.attention_backward_workspace(problem, dtype);
  }
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
  void count(OperatorFamily family, std::int64_t read, std::int64_t written,
             double flops = 0) const;

  Device device_;
  const Backend& real_;
  mutable std::array<OperatorCounts, kOperatorFamilies> counts_{};
};

}  // namespace neox
