#include "kernels/optimizer.h"

#include <cmath>

namespace neox {

AdamWRule adamw_rule(const AdamW& hyper) {
  const double b1 = hyper.beta1, b2 = hyper.beta2;
  const auto t = static_cast<double>(hyper.step);
  // -expm1(t log b) is 1 - b^t without cancellation; b = 0 gives 1.
  const double correction1 = -std::expm1(t * std::log(b1));
  const double correction2 = -std::expm1(t * std::log(b2));
  return {.beta1 = hyper.beta1,
          .beta2 = hyper.beta2,
          .rest1 = static_cast<float>(1.0 - b1),
          .rest2 = static_cast<float>(1.0 - b2),
          .step_size = static_cast<float>(hyper.lr / correction1),
          .inverse_root2 = static_cast<float>(1.0 / std::sqrt(correction2)),
          .eps = hyper.eps,
          .decay = static_cast<float>(static_cast<double>(hyper.lr) * hyper.weight_decay)};
}

}  // namespace neox
