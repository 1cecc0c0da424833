#include <cstring>

#include "kernels/cpu/cpu_backend.h"

namespace neox {

void CpuBackend::copy_heads(Stream&, ConstHeads from, Heads to, std::int64_t batch,
                            std::int64_t seq, std::int64_t heads, std::int64_t head_dim) const {
  const auto element = static_cast<std::int64_t>(size_of(from.dtype));
  for (std::int64_t b = 0; b < batch; ++b) {
    for (std::int64_t s = 0; s < seq; ++s) {
      for (std::int64_t a = 0; a < heads; ++a) {
        const std::int64_t source =
            b * from.batch_stride + s * from.row_stride + a * from.head_stride;
        const std::int64_t target = b * to.batch_stride + s * to.row_stride + a * to.head_stride;
        std::memcpy(to.data + target * element, from.data + source * element,
                    static_cast<std::size_t>(head_dim * element));
      }
    }
  }
}

}  // namespace neox
