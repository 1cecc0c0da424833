// The rooms are in a strict order: a room includes only rooms above it, and the headers of big libraries
// stay in source files.

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <regex>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace {

namespace fs = std::filesystem;

const std::vector<std::string> kRooms = {"core/base",   "core/tensor",   "core/config", "kernels",
                                         "comm",        "io",            "core/model",  "core/parallel",
                                         "core/optim",  "core/train",    "app"};

// What a room may not include although it is above.
const std::vector<std::pair<std::string, std::string>> kForbidden = {
    {"core/config", "core/tensor"}, {"kernels", "core/config"}, {"comm", "core/config"},
    {"comm", "kernels"},            {"io", "core/config"},      {"io", "kernels"}};

int room_of(const std::string& path) {
  for (std::size_t i = 0; i < kRooms.size(); ++i) {
    if (path.starts_with(kRooms[i] + "/")) return static_cast<int>(i);
  }
  return -1;
}

template <class F>
void for_each_source(F&& f) {
  const fs::path root = NEOX_SOURCE_DIR;
  for (const std::string& room : kRooms) {
    if (!fs::exists(root / room)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(root / room)) {
      const std::string extension = entry.path().extension();
      if (extension != ".h" && extension != ".cpp" && extension != ".cu" && extension != ".cuh") {
        continue;
      }
      f(fs::relative(entry.path(), root).string());
    }
  }
}

std::vector<std::string> lines_of(const std::string& path) {
  std::ifstream in(fs::path(NEOX_SOURCE_DIR) / path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

TEST(Rooms, IncludeOnlyRoomsAboveThem) {
  const std::regex include("^\\s*#\\s*include\\s+\"([^\"]+)\"");
  int checked = 0;
  for_each_source([&](const std::string& file) {
    const int from = room_of(file);
    for (const std::string& line : lines_of(file)) {
      std::smatch match;
      if (!std::regex_search(line, match, include)) continue;
      const std::string target = match[1];
      const int to = room_of(target);
      ++checked;
      if (to < 0) continue;  // generated headers
      EXPECT_LE(to, from) << file << " includes " << target;
      for (const auto& [room, forbidden] : kForbidden) {
        EXPECT_FALSE(kRooms[static_cast<std::size_t>(from)] == room &&
                     kRooms[static_cast<std::size_t>(to)] == forbidden)
            << file << " includes " << target;
      }
      const bool uses_comm = kRooms[static_cast<std::size_t>(to)] == "comm";
      if (kRooms[static_cast<std::size_t>(from)] == "io" && uses_comm) {
        EXPECT_TRUE(file.starts_with("io/checkpoint/")) << file << " includes " << target;
      }
    }
  });
  EXPECT_GT(checked, 50);
}

TEST(Rooms, BigLibrariesStayOutOfHeaders) {
  const std::regex heavy(
      "#\\s*include\\s+[<\"](mpi|nccl|cuda_runtime|hdf5|dnnl|nlohmann/|boost/|simdjson|pcre2|unicode/"
      "|google/protobuf|zstd)");
  for_each_source([&](const std::string& file) {
    if (!file.ends_with(".h")) return;
    // Private headers of one implementation folder may name their library.
    const bool internal = file.find("internal") != std::string::npos;
    for (const std::string& line : lines_of(file)) {
      EXPECT_TRUE(internal || !std::regex_search(line, heavy)) << file << ": " << line;
    }
  });
}

}  // namespace
