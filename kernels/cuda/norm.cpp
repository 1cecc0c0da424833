#include "kernels/cuda/norm.h"

#include "kernels/cuda/norm_kernels.h"

namespace neox {

void CudaNorm::layer_norm(Stream& stream, ConstTensor x, ConstTensor w, ConstTensor b, float eps,
                          Tensor y, Tensor mean, Tensor rstd) const {
  forward(stream, "layer_norm", x, w, b, eps, y, mean, rstd);
}

void CudaNorm::rms_norm(Stream& stream, ConstTensor x, ConstTensor w, float eps, Tensor y,
                        Tensor rstd) const {
  forward(stream, "rms_norm", x, w, {}, eps, y, {}, rstd);
}

void CudaNorm::layer_norm_backward(Stream& stream, ConstTensor dy, ConstTensor x, ConstTensor w,
                                   ConstTensor mean, ConstTensor rstd, ConstTensor residual_grad,
                                   Tensor dx, Tensor dw, Tensor db, bool accumulate) const {
  backward(stream, "layer_norm_backward", dy, x, w, mean, rstd, residual_grad, dx, dw, db,
           accumulate);
}

void CudaNorm::rms_norm_backward(Stream& stream, ConstTensor dy, ConstTensor x, ConstTensor w,
                                 ConstTensor rstd, ConstTensor residual_grad, Tensor dx, Tensor dw,
                                 bool accumulate) const {
  backward(stream, "rms_norm_backward", dy, x, w, {}, rstd, residual_grad, dx, dw, {}, accumulate);
}

void CudaNorm::forward(Stream& stream, const char* name, ConstTensor x, ConstTensor w,
                       ConstTensor b, float eps, Tensor y, Tensor mean, Tensor rstd) const {
  const DType t = x.dtype;
  const cuda::NormForward args{t,
                               x.rows(),
                               x.cols(),
                               input(x, t),
                               input(w, t),
                               optional_input(b, t),
                               eps,
                               output(y, t),
                               static_cast<float*>(optional_output(mean, DType::f32)),
                               static_cast<float*>(output(rstd, DType::f32))};
  run(stream, name, [=](const cuda::Launch& launch) { cuda::norm_forward(launch, args); });
}

void CudaNorm::backward(Stream& stream, const char* name, ConstTensor dy, ConstTensor x,
                        ConstTensor w, ConstTensor mean, ConstTensor rstd,
                        ConstTensor residual_grad, Tensor dx, Tensor dw, Tensor db,
                        bool accumulate) const {
  const DType t = x.dtype;
  const bool wants_input = static_cast<bool>(dx);  // else w and residual_grad are not read
  const cuda::NormBackward args{t,
                                x.rows(),
                                x.cols(),
                                input(dy, t),
                                input(x, t),
                                wants_input ? input(w, t) : nullptr,
                                static_cast<const float*>(optional_input(mean, DType::f32)),
                                static_cast<const float*>(input(rstd, DType::f32)),
                                wants_input ? optional_input(residual_grad, t) : nullptr,
                                optional_output(dx, t),
                                static_cast<float*>(optional_output(dw, DType::f32)),
                                static_cast<float*>(optional_output(db, DType::f32)),
                                accumulate};
  const std::size_t bytes =
      dw ? cuda::norm_backward_scratch(multiprocessors_, t, args.rows, args.h) : 0;
  auto* scratch = static_cast<float*>(workspace_.take(stream, bytes));
  run(stream, name,
      [=](const cuda::Launch& launch) { cuda::norm_backward(launch, args, scratch); });
}

}  // namespace neox
