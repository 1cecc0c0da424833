#pragma once
// The CUDA families whose kernels need thread blocks, as a backend for the operator harness.

#include "kernels/cuda/hash.h"
#include "kernels/cuda/loss.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/optimizer.h"
#include "kernels/dry_run/dry_run_backend.h"

namespace neox::testing {

/// Computes these families and nothing else: results of other operators stay unwritten, which the
/// harness reports.
class BlockFamilies final : public DryRunBackend {
 public:
  BlockFamilies(Device device, const Backend& cpu)
      : DryRunBackend(device, cpu),
        norm_(device),
        loss_(device),
        optimizer_(device),
        hash_(device) {}
  std::string_view name() const override { return "cuda block kernels"; }

  void layer_norm(Stream& s, ConstTensor x, ConstTensor w, ConstTensor b, float eps, Tensor y,
                  Tensor mean, Tensor rstd) const override {
    norm_.layer_norm(s, x, w, b, eps, y, mean, rstd);
  }
  void layer_norm_backward(Stream& s, ConstTensor dy, ConstTensor x, ConstTensor w,
                           ConstTensor mean, ConstTensor rstd, ConstTensor residual_grad, Tensor dx,
                           Tensor dw, Tensor db, bool accumulate) const override {
    norm_.layer_norm_backward(s, dy, x, w, mean, rstd, residual_grad, dx, dw, db, accumulate);
  }
  void rms_norm(Stream& s, ConstTensor x, ConstTensor w, float eps, Tensor y,
                Tensor rstd) const override {
    norm_.rms_norm(s, x, w, eps, y, rstd);
  }
  void rms_norm_backward(Stream& s, ConstTensor dy, ConstTensor x, ConstTensor w, ConstTensor rstd,
                         ConstTensor residual_grad, Tensor dx, Tensor dw,
                         bool accumulate) const override {
    norm_.rms_norm_backward(s, dy, x, w, rstd, residual_grad, dx, dw, accumulate);
  }

  void cross_entropy(Stream& s, ConstTensor logits, ConstTensor labels, ConstTensor weights,
                     std::int64_t valid, Tensor losses, Tensor dlogits) const override {
    loss_.cross_entropy(s, logits, labels, weights, valid, losses, dlogits);
  }
  void cross_entropy_partial(Stream& s, ConstTensor logits, ConstTensor labels, ConstTensor weights,
                             std::int64_t first, std::int64_t valid, Tensor stats) const override {
    loss_.cross_entropy_partial(s, logits, labels, weights, first, valid, stats);
  }
  void cross_entropy_combine(Stream& s, ConstTensor logits, ConstTensor labels, ConstTensor weights,
                             std::int64_t first, std::int64_t valid, ConstTensor parts,
                             Tensor losses, Tensor dlogits) const override {
    loss_.cross_entropy_combine(s, logits, labels, weights, first, valid, parts, losses, dlogits);
  }

  void adamw(Stream& s, const AdamW& hyper, ConstTensor grad, ConstTensor grad_scale, Tensor main,
             Tensor m, Tensor v, Tensor weights) const override {
    optimizer_.adamw(s, hyper, grad, grad_scale, main, m, v, weights);
  }
  void square_sum(Stream& s, ConstTensor x, Tensor out, bool accumulate) const override {
    optimizer_.square_sum(s, x, out, accumulate);
  }
  void clip_scale(Stream& s, ConstTensor sum, float max_norm, Tensor scale) const override {
    optimizer_.clip_scale(s, sum, max_norm, scale);
  }

  void hash(Stream& s, ConstTensor x, Tensor out, bool accumulate) const override {
    hash_.hash(s, x, out, accumulate);
  }

 private:
  CudaNorm norm_;
  CudaLoss loss_;
  CudaOptimizer optimizer_;
  CudaHash hash_;
};

/// On kGpu or kSimulated.
const Backend& block_families_on(Device device);

}  // namespace neox::testing
