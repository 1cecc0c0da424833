// Time, bandwidth and throughput of every operator at the sizes of one GPT-2 124M step of 1024
// tokens, or which of them a backend supports.
//
//   bench_operators [--supported] [text]     only operators whose name contains the text
//
// "GB/s" counts every tensor once; operators whose tensors stay in a cache exceed the memory's
// rate.

#include <cstdio>
#include <string>

#include <fmt/core.h>

#include "tests/kernels/op_cases.h"

namespace {

using namespace neox;
using namespace neox::testing;

void print_speed(const Backend& backend, const OpCase& test, bool backward) {
  const Speed speed = measure(backend, test, backward);
  const std::string rate = speed.flops > 0
                               ? fmt::format("{:8.1f} GFLOP/s", speed.flops / speed.seconds * 1e-9)
                               : fmt::format("{:8.1f} GB/s", speed.bytes / speed.seconds * 1e-9);
  fmt::print("{:18} {:5} {:46} {:9} {:9.3f} ms {}\n", test.name, name_of(test.dtype), test.variant,
             backward ? "backward" : "forward", speed.seconds * 1e3, rate);
  std::fflush(stdout);
}

void print_support(const Backend& backend, const OpCase& test) {
  std::string why;
  const bool supported = is_supported(backend, test, &why);
  fmt::print("{:18} {:5} {:46} {}\n", test.name, name_of(test.dtype), test.variant,
             supported ? "yes" : "no: " + why);
}

int run(int argc, char** argv) {
  bool support = false;
  std::string wanted;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--supported") {
      support = true;
    } else {
      wanted = argument;
    }
  }
  const auto backend = make_backend(Device{});
  for (const OpCase& test : all_cases(support ? CaseSize::small : CaseSize::gpt2)) {
    if (test.name.find(wanted) == std::string::npos) continue;
    if (support) {
      print_support(*backend, test);
      continue;
    }
    print_speed(*backend, test, false);
    if (test.backward) print_speed(*backend, test, true);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_operators: {}\n", error.what());
    return 1;
  }
}
