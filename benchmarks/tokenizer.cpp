// Tokenizing speed on one thread, for benchmarks/tokenizer.py, which runs Hugging Face's beside it.
//   bench_tokenizer whole|lines TOKENIZER_JSON FILE…   one line of JSON per file
#include "io/tokenizer/tokenizer.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <string_view>
#include <vector>

#include <fmt/core.h>

#include "core/base/error.h"

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

std::vector<std::string_view> cut(std::string_view text, bool lines) {
  if (!lines) return {text};
  std::vector<std::string_view> parts;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size() - 1) + 1;
    parts.push_back(text.substr(at, end - at));
    at = end;
  }
  return parts;
}

void measure(const std::string& tokenizer_file, const std::string& path, bool lines) {
  const std::string text = read_file(path);
  const std::vector<std::string_view> parts = cut(text, lines);
  const auto tokenizer = neox::load_tokenizer("HFTokenizer", tokenizer_file);
  std::vector<std::int32_t> ids = tokenizer->encode("warm up");
  double first = 0, best = 1e30, total = 0;
  for (int pass = 0; pass < 3 || total < 0.3; ++pass) {
    ids.clear();
    const auto start = std::chrono::steady_clock::now();
    for (const std::string_view part : parts) tokenizer->encode(part, ids);
    const double seconds = seconds_since(start);
    if (pass == 0) first = seconds;
    best = std::min(best, seconds);
    total += seconds;
  }
  fmt::print(
      "{{\"file\": \"{}\", \"bytes\": {}, \"ids\": {}, \"hash\": {}, \"first_s\": {:.6f}, "
      "\"best_s\": {:.6f}}}\n",
      path, text.size(), ids.size(), hash_of(ids), first, best);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    neox::require(argc > 3, "usage: bench_tokenizer whole|lines TOKENIZER_JSON FILE…");
    for (int i = 3; i < argc; ++i) measure(argv[2], argv[i], argv[1] == std::string("lines"));
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_tokenizer: {}\n", error.what());
    return 1;
  }
}
