// Tokenizing speed on one thread, for benchmarks/tokenizer.py, which runs Hugging Face's beside it.
//   bench_tokenizer TOKENIZER_JSON FILE…   one line of JSON per file
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <sstream>

#include <fmt/core.h>

#include "core/base/error.h"
#include "io/tokenizer/tokenizer.h"

namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream all;
  all << in.rdbuf();
  neox::require(in.good(), "can't read {}", path);
  return std::move(all).str();
}

// FNV-1a over the ids, so that the caller can see that both programs made the same.
std::uint64_t hash_of(const std::vector<std::int32_t>& ids) {
  std::uint64_t h = 0xcbf29ce484222325u;
  for (const std::int32_t id : ids) h = (h ^ static_cast<std::uint32_t>(id)) * 0x100000001b3u;
  return h;
}

void measure(const std::string& tokenizer_file, const std::string& path) {
  const std::string text = read_file(path);
  const auto tokenizer = neox::load_tokenizer("HFTokenizer", tokenizer_file);
  std::vector<std::int32_t> ids;
  double first = 0, best = 1e30, total = 0;
  for (int pass = 0; pass < 3 || total < 0.5; ++pass) {
    ids.clear();
    const auto start = std::chrono::steady_clock::now();
    tokenizer->encode(text, ids);
    const double seconds = seconds_since(start);
    if (pass == 0) first = seconds;
    best = std::min(best, seconds);
    total += seconds;
  }
  fmt::print("{{\"file\": \"{}\", \"bytes\": {}, \"ids\": {}, \"hash\": {}, \"first_s\": {:.6f}, "
             "\"best_s\": {:.6f}}}\n",
             path, text.size(), ids.size(), hash_of(ids), first, best);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    neox::require(argc > 2, "usage: bench_tokenizer TOKENIZER_JSON FILE…");
    for (int i = 2; i < argc; ++i) measure(argv[1], argv[i]);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_tokenizer: {}\n", error.what());
    return 1;
  }
}
