#include "kernels/cuda/nvtx.h"

#include <cstdio>
#include <nvtx3/nvToolsExt.h>

#include "core/base/trace.h"

namespace neox {
namespace {

void open_range(std::string_view name, std::int64_t number) {
  char text[64];
  const auto length = static_cast<int>(name.size());
  if (number < 0) {
    std::snprintf(text, sizeof text, "%.*s", length, name.data());
  } else {
    std::snprintf(text, sizeof text, "%.*s %lld", length, name.data(),
                  static_cast<long long>(number));
  }
  nvtxRangePushA(text);
}

void close_range() {
  nvtxRangePop();
}

}  // namespace

void show_nvtx_ranges() {
  static constexpr trace::Sink kSink{open_range, close_range};
  trace::show_in(&kSink);
}

}  // namespace neox
