#include "core/base/version.h"

#include "core/base/error.h"

namespace neox {

std::string version() {
  return NEOX_VERSION;
}

void require_compatible_cpu() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const auto check = [](bool built_for, bool cpu_has, const char* name) {
    require(!built_for || cpu_has,
            "this program was compiled for {} instructions, which this CPU lacks; build it on this "
            "machine, or with -DNEOX_MARCH=x86-64-v2",
            name);
  };
#if defined(__AVX2__)
  check(true, __builtin_cpu_supports("avx2"), "AVX2");
#endif
#if defined(__FMA__)
  check(true, __builtin_cpu_supports("fma"), "FMA");
#endif
#if defined(__AVX512F__)
  check(true, __builtin_cpu_supports("avx512f"), "AVX-512F");
#endif
#if defined(__AVX512BW__)
  check(true, __builtin_cpu_supports("avx512bw"), "AVX-512BW");
#endif
#if defined(__AVX512BF16__)
  check(true, __builtin_cpu_supports("avx512bf16"), "AVX512-BF16");
#endif
  (void)check;
#endif
}

}  // namespace neox
