#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/gemm.h"

namespace neox {

void CpuBackend::linear(Stream&, ConstTensor x, ConstTensor w, ConstTensor bias, Tensor y) const {
  gemm_->forward(x, w, bias, y);
}

void CpuBackend::linear_backward_input(Stream&, ConstTensor dy, ConstTensor w, Tensor dx,
                                       bool accumulate) const {
  gemm_->backward_input(dy, w, dx, accumulate);
}

void CpuBackend::linear_backward_weight(Stream&, ConstTensor dy, ConstTensor x, Tensor dw,
                                        Tensor db, bool accumulate) const {
  gemm_->backward_weight(dy, x, dw, db, accumulate);
}

void CpuBackend::weights_changed() const {
  gemm_->weights_changed();
}

}  // namespace neox
