#include <atomic>
#include <barrier>
#include <cstring>
#include <filesystem>
#include <random>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/base/log.h"
#include "io/data/index_cache.h"
#include "tests/io/data_support.h"

namespace neox {
namespace {

using data_testing::error_of;
using data_testing::read_file;
using data_testing::TempDir;
using data_testing::write_file;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

CacheRequest request_in(const std::string& directory,
                        const std::string& key = "numbers 1 to 1000") {
  return {directory, "numbers", key, {{4, 1000}, {8, 3}}};
}

struct Builds {
  std::atomic<int> count = 0;
  ArrayBuilder builder() {
    return [this](std::span<const std::span<std::byte>> arrays) {
      ++count;
      for (std::int32_t i = 0; i < 1000; ++i) {
        std::memcpy(arrays[0].data() + 4 * i, &i, sizeof i);
      }
      const std::int64_t last = 77;
      std::memcpy(arrays[1].data() + 16, &last, sizeof last);
    };
  }
};

bool right(const ArrayImage& image) {
  const auto a = image.array<std::int32_t>(0);
  const auto b = image.array<std::int64_t>(1);
  if (a.size() != 1000 || b.size() != 3) return false;
  for (std::int32_t i = 0; i < 1000; ++i) {
    if (a[static_cast<std::size_t>(i)] != i) return false;
  }
  return b[0] == 0 && b[1] == 0 && b[2] == 77;
}

std::size_t files_in(const std::string& directory) {
  return static_cast<std::size_t>(
      std::distance(fs::directory_iterator(directory), fs::directory_iterator()));
}

TEST(IndexCache, BuildsOnceThenReads) {
  TempDir dir;
  Builds builds;
  const auto request = request_in(dir / "new/folder");
  EXPECT_TRUE(right(load_or_build(request, builds.builder())));
  const ArrayImage again = load_or_build(request, builds.builder());
  EXPECT_TRUE(again.from_file());
  EXPECT_TRUE(right(again));
  EXPECT_EQ(builds.count, 1);
  EXPECT_EQ(files_in(dir / "new/folder"), 1u);  // no locks or partial files stay
  EXPECT_TRUE(fs::exists(cache_path(request)));
}

TEST(IndexCache, AnotherKeyIsAnotherFile) {
  TempDir dir;
  Builds builds;
  load_or_build(request_in(dir.str(), "a"), builds.builder());
  load_or_build(request_in(dir.str(), "b"), builds.builder());
  EXPECT_EQ(builds.count, 2);
  EXPECT_EQ(files_in(dir.str()), 2u);
}

// Even when two keys had one hash, the text decides.
TEST(IndexCache, TheWholeKeyIsCompared) {
  TempDir dir;
  Builds builds;
  const auto a = request_in(dir.str(), "a"), b = request_in(dir.str(), "b");
  load_or_build(a, builds.builder());
  fs::rename(cache_path(a), cache_path(b));
  EXPECT_TRUE(right(load_or_build(b, builds.builder())));
  EXPECT_EQ(builds.count, 2);
}

TEST(IndexCache, WithoutADirectoryItBuildsInMemory) {
  Builds builds;
  const ArrayImage image = load_or_build(request_in(""), builds.builder());
  EXPECT_FALSE(image.from_file());
  EXPECT_TRUE(right(image));
}

TEST(IndexCache, DamageAnywhereIsFoundAndRepaired) {
  TempDir dir;
  Builds builds;
  const auto request = request_in(dir.str());
  load_or_build(request, builds.builder());
  const std::string good = read_file(cache_path(request));
  std::mt19937 rng(5);
  set_log_level(LogLevel::error);  // a warning a round
  for (int round = 0; round < 150; ++round) {
    std::string bad = good;
    if (round % 3 == 0) {
      bad.resize(rng() % good.size());
    } else if (round % 10 == 1) {
      bad += "more";
    } else {
      bad[rng() % bad.size()] ^= static_cast<char>(1u << (rng() % 8));
    }
    write_file(cache_path(request), bad);
    const int before = builds.count;
    EXPECT_TRUE(right(load_or_build(request, builds.builder())));
    EXPECT_EQ(builds.count, before + 1);
    EXPECT_TRUE(read_file(cache_path(request)) == good);
  }
  set_log_level(LogLevel::info);
}

TEST(IndexCache, AnUnwritableDirectoryOnlyWarns) {
  TempDir dir;
  write_file(dir / "file", "in the way");
  Builds builds;
  for (const std::string& directory :
       {dir / "file", dir / "file/below", std::string("/proc/none")}) {
    const ArrayImage image = load_or_build(request_in(directory), builds.builder());
    EXPECT_FALSE(image.from_file());
    EXPECT_TRUE(right(image));
  }
  EXPECT_EQ(builds.count, 3);
}

TEST(IndexCache, AFullDiskOnlyWarns) {
  TempDir dir;
  Builds builds;
  {
    data_testing::FileSizeLimit limit(1024);
    const ArrayImage image = load_or_build(request_in(dir.str()), builds.builder());
    EXPECT_FALSE(image.from_file());
    EXPECT_TRUE(right(image));
  }
  EXPECT_EQ(files_in(dir.str()), 0u);
  EXPECT_TRUE(load_or_build(request_in(dir.str()), builds.builder()).from_file());
}

TEST(IndexCache, ErrorsOfTheBuilderComeThroughAndLeaveNothing) {
  TempDir dir;
  const auto bad = [](auto) { fail("no such thing"); };
  EXPECT_THAT(error_of([&] { load_or_build(request_in(dir.str()), bad); }), HasSubstr("no such"));
  EXPECT_EQ(files_in(dir.str()), 0u);
}

TEST(IndexCache, WhatACrashLeftIsTakenOver) {
  TempDir dir;
  Builds builds;
  const auto request = request_in(dir.str());
  write_file(cache_path(request) + ".partial", std::string(100000, 'x'));
  EXPECT_TRUE(right(load_or_build(request, builds.builder())));
  EXPECT_EQ(files_in(dir.str()), 1u);
  EXPECT_TRUE(load_or_build(request, builds.builder()).from_file());
}

// Locks belong to open files, so threads race as processes do.
TEST(IndexCache, RacersBuildOnceAndNeverReadATornFile) {
  constexpr int kRacers = 12;
  for (int round = 0; round < 20; ++round) {
    TempDir dir;
    Builds builds;
    std::atomic<int> wrong = 0;
    std::barrier start(kRacers);
    {
      std::vector<std::jthread> racers;
      for (int r = 0; r < kRacers; ++r) {
        racers.emplace_back([&] {
          start.arrive_and_wait();
          const ArrayImage image = load_or_build(request_in(dir / "cache"), builds.builder());
          if (!right(image) || !image.from_file()) ++wrong;
        });
      }
    }
    EXPECT_EQ(wrong, 0);
    EXPECT_EQ(builds.count, 1);
    EXPECT_EQ(files_in(dir / "cache"), 1u);
  }
}

TEST(Checksum64, SeesPositionsLengthsAndTails) {
  const auto sum = [](const std::string& text) {
    return checksum64(std::as_bytes(std::span(text)));
  };
  const std::string text = "0123456789abcdef0123456789abcdef+++";
  for (std::size_t i = 0; i < text.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string other = text;
      other[i] = static_cast<char>(other[i] ^ (1 << bit));
      EXPECT_NE(sum(other), sum(text));
    }
    EXPECT_NE(sum(text.substr(0, i)), sum(text));
  }
  EXPECT_NE(sum(std::string(8, '\0')), sum(std::string(16, '\0')));
  EXPECT_NE(sum(std::string(7, '\0')), sum(std::string(8, '\0')));
  EXPECT_NE(sum("aaaaaaaabbbbbbbb"), sum("bbbbbbbbaaaaaaaa"));
}

}  // namespace
}  // namespace neox
