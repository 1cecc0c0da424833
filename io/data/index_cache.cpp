#include "io/data/index_cache.h"

#include <chrono>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <new>
#include <optional>
#include <set>
#include <thread>

#include "core/base/error.h"
#include "core/base/format.h"
#include "core/base/log.h"
#include "io/data/partial_file.h"

namespace neox {

/// The only maker of ArrayImages.
struct ArrayImageAccess {
  using Range = ArrayImage::Range;
  static std::vector<Range>& ranges(ArrayImage& image) { return image.ranges_; }
  static void own(ArrayImage& image, std::unique_ptr<std::byte[]> memory) {
    image.base_ = memory.get();
    image.memory_ = std::move(memory);
  }
  static void map(ArrayImage& image, MappedFile file, std::size_t payload_at) {
    image.base_ = file.data() + payload_at;
    image.file_ = std::move(file);
  }
  static const std::byte* base(const ArrayImage& image) { return image.base_; }
};

namespace {

using Range = ArrayImageAccess::Range;
constexpr std::size_t kAlignment = 64;
constexpr char kMagic[8] = {'N', 'E', 'O', 'X', 'I', 'D', 'X', '1'};
constexpr std::size_t kSumAt = sizeof kMagic;

std::size_t align(std::size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// Where everything is in a cache file. The header's only unknown is the payload's checksum: a
// reader makes the header it expects and compares it whole.
struct Layout {
  std::vector<Range> ranges;  // offsets from the start of the payload
  std::size_t payload_bytes = 0;
  std::vector<std::byte> header;  // the checksum still zero; a multiple of kAlignment
};

template <class T>
void append(std::vector<std::byte>& out, const T& value) {
  const auto* from = reinterpret_cast<const std::byte*>(&value);
  out.insert(out.end(), from, from + sizeof value);
}

Layout make_layout(const CacheRequest& request) {
  Layout layout;
  append(layout.header, kMagic);
  append(layout.header, std::uint64_t{0});  // checksum
  append(layout.header, static_cast<std::uint64_t>(request.key.size()));
  append(layout.header, static_cast<std::uint64_t>(request.arrays.size()));
  for (const auto& array : request.arrays) {
    const std::size_t bytes = array.element_size * static_cast<std::size_t>(array.count);
    layout.ranges.push_back({layout.payload_bytes, bytes, array.element_size});
    layout.payload_bytes += align(bytes);
    append(layout.header, static_cast<std::uint64_t>(array.element_size));
    append(layout.header, static_cast<std::uint64_t>(array.count));
  }
  for (const char c : request.key) append(layout.header, c);
  layout.header.resize(align(layout.header.size()));
  return layout;
}

std::optional<ArrayImage> read_cached(const std::string& path, const Layout& layout, bool warn) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return std::nullopt;
  try {
    MappedFile file(path);
    const std::size_t header_bytes = layout.header.size();
    require(file.size() == header_bytes + layout.payload_bytes, "it holds {} bytes instead of {}",
            file.size(), header_bytes + layout.payload_bytes);
    auto header = std::vector(file.data(), file.data() + header_bytes);
    const auto sum = load_unaligned<std::uint64_t>(header.data() + kSumAt);
    std::memset(header.data() + kSumAt, 0, sizeof sum);
    require(header == layout.header, "its header describes other arrays");
    require(checksum64(file.bytes().subspan(header_bytes)) == sum, "its checksum is wrong");
    ArrayImage image;
    ArrayImageAccess::ranges(image) = layout.ranges;
    ArrayImageAccess::map(image, std::move(file), header_bytes);
    return image;
  } catch (const Error& error) {
    if (warn)
      log_warning("index cache '{}' is not usable and is made again: {}", path, error.what());
    return std::nullopt;
  }
}

ArrayImage build_in_memory(const CacheRequest& request, const Layout& layout,
                           const ArrayBuilder& build) {
  ArrayImage image;
  std::unique_ptr<std::byte[]> memory;
  try {
    memory = std::make_unique<std::byte[]>(layout.payload_bytes);
  } catch (const std::bad_alloc&) {
    fail(
        "no memory for the {} of the index '{}': ask for fewer samples, or use a machine with more "
        "memory",
        format_bytes(layout.payload_bytes), request.name);
  }
  std::vector<std::span<std::byte>> arrays;
  for (const Range& range : layout.ranges)
    arrays.emplace_back(memory.get() + range.offset, range.bytes);
  build(arrays);
  ArrayImageAccess::ranges(image) = layout.ranges;
  ArrayImageAccess::own(image, std::move(memory));
  return image;
}

// Every array of a run fails for the same reason: say it once for each directory.
void warn_not_cached(const std::string& directory, const std::string& reason) {
  static std::mutex mutex;
  static std::set<std::string> warned;
  const std::lock_guard lock(mutex);
  if (!warned.insert(directory).second) return;
  log_warning(
      "indices are not kept in '{}' and every process makes its own: {}. Set index_cache_dir "
      "to a directory that can be written",
      directory.empty() ? "." : directory, reason);
}

// The right to make the file, or the arrays when another process has made them meanwhile.
std::optional<PartialFile> wait_for_turn(const std::string& path, const Layout& layout,
                                         std::optional<ArrayImage>& image) {
  using namespace std::chrono_literals;
  auto pause = 5ms;
  auto report_at = std::chrono::steady_clock::now() + 2s;
  while (true) {
    auto file = PartialFile::try_create(path);
    // Looked at after the lock is held: the last holder may have published just before.
    image = read_cached(path, layout, false);
    if (image || file) return file;
    if (std::chrono::steady_clock::now() >= report_at) {
      log_info("waiting for another process that is making '{}'", path);
      report_at += 60s;
    }
    std::this_thread::sleep_for(pause);
    pause = std::min<std::chrono::milliseconds>(pause * 2, 500ms);
  }
}

void publish(PartialFile& file, const Layout& layout, const ArrayImage& image) {
  const std::span payload(ArrayImageAccess::base(image), layout.payload_bytes);
  auto header = layout.header;
  const std::uint64_t sum = checksum64(payload);
  std::memcpy(header.data() + kSumAt, &sum, sizeof sum);
  file.write(header);
  file.write(payload);
  file.publish();
}

}  // namespace

std::uint64_t checksum64(std::span<const std::byte> bytes) {
  const auto weight = [](std::uint64_t i) {  // splitmix64, made odd
    std::uint64_t z = (i + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (z ^ (z >> 31)) | 1u;
  };
  const std::size_t words = bytes.size() / 8;
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < words; ++i) {
    sum += (load_unaligned<std::uint64_t>(bytes.data() + 8 * i) + 1) * weight(i);
  }
  std::uint64_t last = 0;
  if (const std::size_t rest = bytes.size() % 8; rest != 0) {
    std::memcpy(&last, bytes.data() + 8 * words, rest);
  }
  sum += (last + 1) * weight(words);
  return sum + bytes.size() * weight(words + 1);
}

std::string cache_path(const CacheRequest& request) {
  const std::uint64_t hash = checksum64(std::as_bytes(std::span(request.key)));
  const auto file = fmt::format("{}_{:016x}.index", request.name, hash);
  return (std::filesystem::path(request.directory) / file).string();
}

ArrayImage load_or_build(const CacheRequest& request, const ArrayBuilder& build) {
  const Layout layout = make_layout(request);
  if (request.directory.empty()) return build_in_memory(request, layout, build);
  const std::string path = cache_path(request);
  if (auto image = read_cached(path, layout, true)) return std::move(*image);

  std::optional<PartialFile> file;
  try {
    std::filesystem::create_directories(request.directory);
    std::optional<ArrayImage> image;
    file = wait_for_turn(path, layout, image);
    if (image) return std::move(*image);
  } catch (const std::exception& error) {
    warn_not_cached(request.directory, error.what());
    return build_in_memory(request, layout, build);
  }
  ArrayImage image = build_in_memory(request, layout, build);
  try {
    publish(*file, layout, image);
  } catch (const Error& error) {
    warn_not_cached(request.directory, error.what());
    return image;
  }
  // The mapped file is shared by the processes of this machine; the private copy goes.
  if (auto shared = read_cached(path, layout, true)) return std::move(*shared);
  return image;
}

}  // namespace neox
