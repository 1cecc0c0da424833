#include "io/data/archive_stream.h"

#include <archive.h>
#include <archive_entry.h>
#include <array>
#include <filesystem>
#include <optional>

#include "core/base/error.h"

namespace neox {
namespace {

// What a file's name says about it.
struct NameParts {
  std::string compression;           // "zst", "gz", "xz", "bz2" or empty
  std::string container;             // "tar", "zip" or empty
  std::optional<TextFormat> format;  // of the text, or of an archive's members
};

bool strip_suffix(std::string_view& name, std::string_view suffix) {
  if (!name.ends_with(suffix)) return false;
  name.remove_suffix(suffix.size());
  return true;
}

std::string strip_compression(std::string_view& name) {
  for (const char* suffix : {"zst", "gz", "xz", "bz2"}) {
    if (strip_suffix(name, std::string(".") + suffix)) return suffix;
  }
  return "";
}

NameParts parse_name(std::string_view name) {
  NameParts parts;
  if (strip_suffix(name, ".tgz")) {
    parts.compression = "gz";
    parts.container = "tar";
  } else {
    parts.compression = strip_compression(name);
    for (const char* suffix : {"tar", "zip"}) {
      if (parts.container.empty() && strip_suffix(name, std::string(".") + suffix)) {
        parts.container = suffix;
      }
    }
  }
  if (!parts.container.empty()) strip_compression(name);  // .jsonl.zst.tar
  if (name.ends_with(".jsonl")) parts.format = TextFormat::jsonl;
  if (name.ends_with(".txt")) parts.format = TextFormat::plain;
  return parts;
}

constexpr const char* kKnownNames =
    ".jsonl or .txt, with .zst, .gz, .xz or .bz2 behind it, or .zip, .tar or .tar.gz of such files";

}  // namespace

bool is_text_file_name(std::string_view name) {
  const NameParts parts = parse_name(name);
  return parts.format.has_value() || !parts.container.empty();
}

// One libarchive reader. Its bytes come from a file or from the level below.
struct ArchiveStream::Level {
  std::string name;
  NameParts parts;
  archive* reader = nullptr;
  Level* source = nullptr;
  std::array<char, 65536> buffer;

  Level() = default;
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;
  ~Level() {
    if (reader != nullptr) archive_read_free(reader);
  }

  bool is_text() const { return parts.container.empty(); }

  [[noreturn]] void refuse() const {
    const char* why = archive_error_string(reader);
    fail("{}: can't be read as its name says: {}", name, why != nullptr ? why : "damaged data");
  }
  void check(int status) const {
    if (status != ARCHIVE_OK && status != ARCHIVE_WARN) refuse();
  }

  void open(const std::string& path) {
    reader = archive_read_new();
    require(reader != nullptr, "out of memory for reading {}", name);
    if (parts.compression == "zst") check(archive_read_support_filter_zstd(reader));
    if (parts.compression == "gz") check(archive_read_support_filter_gzip(reader));
    if (parts.compression == "xz") check(archive_read_support_filter_xz(reader));
    if (parts.compression == "bz2") check(archive_read_support_filter_bzip2(reader));
    if (parts.container == "tar") check(archive_read_support_format_tar(reader));
    if (parts.container == "zip") check(archive_read_support_format_zip(reader));
    if (is_text()) check(archive_read_support_format_raw(reader));
    check(archive_read_support_format_empty(reader));
    if (source == nullptr) {
      check(archive_read_open_filename(reader, path.c_str(), buffer.size()));
    } else {
      check(archive_read_open(reader, this, nullptr, read_source, nullptr));
    }
  }

  static la_ssize_t read_source(archive* reader, void* self, const void** out) {
    auto& level = *static_cast<Level*>(self);
    *out = level.buffer.data();
    const la_ssize_t got =
        archive_read_data(level.source->reader, level.buffer.data(), level.buffer.size());
    if (got < 0) {
      archive_set_error(reader, archive_errno(level.source->reader), "%s",
                        archive_error_string(level.source->reader));
    }
    return got;
  }

  // The next member; nullptr at the end.
  archive_entry* next() {
    archive_entry* entry = nullptr;
    const int status = archive_read_next_header(reader, &entry);
    if (status == ARCHIVE_EOF) return nullptr;
    check(status);
    if (parts.compression.empty() || archive_filter_count(reader) > 1) return entry;
    fail("{}: not compressed as its name says", name);
  }
};

ArchiveStream::ArchiveStream(const std::string& path) {
  require(std::filesystem::exists(path), "the input {} does not exist", path);
  open_level(path, TextFormat::plain, false);
}
ArchiveStream::~ArchiveStream() {
  while (!levels_.empty()) levels_.pop_back();  // the inner ones first
}
ArchiveStream::ArchiveStream(ArchiveStream&&) noexcept = default;
ArchiveStream& ArchiveStream::operator=(ArchiveStream&& other) noexcept {
  while (!levels_.empty()) levels_.pop_back();
  levels_ = std::move(other.levels_);
  return *this;
}

void ArchiveStream::open_level(const std::string& name, TextFormat fallback, bool has_fallback) {
  auto level = std::make_unique<Level>();
  level->name = levels_.empty() ? name : levels_.back()->name + ":" + name;
  level->parts = parse_name(name);
  if (!level->parts.format && has_fallback) level->parts.format = fallback;
  require(level->parts.format || !level->parts.container.empty(),
          "{}: unknown kind of file; neox reads {}", level->name, kKnownNames);
  level->source = levels_.empty() ? nullptr : levels_.back().get();
  level->open(name);
  levels_.push_back(std::move(level));
}

bool ArchiveStream::next_file() {
  while (!levels_.empty()) {
    Level& top = *levels_.back();
    archive_entry* entry = top.next();
    if (entry == nullptr) {
      levels_.pop_back();
      continue;
    }
    if (top.is_text()) return true;
    const char* path = archive_entry_pathname_utf8(entry);
    if (path == nullptr) path = archive_entry_pathname(entry);
    const std::string member = path != nullptr ? path : "";
    const std::string base = std::filesystem::path(member).filename();
    if (archive_entry_filetype(entry) != AE_IFREG || base.empty() || base[0] == '.') continue;
    open_level(member, top.parts.format.value_or(TextFormat::plain), top.parts.format.has_value());
  }
  return false;
}

const std::string& ArchiveStream::name() const {
  return levels_.back()->name;
}
TextFormat ArchiveStream::format() const {
  return *levels_.back()->parts.format;
}

std::size_t ArchiveStream::read(char* out, std::size_t size) {
  const la_ssize_t got = archive_read_data(levels_.back()->reader, out, size);
  if (got < 0) levels_.back()->refuse();
  return static_cast<std::size_t>(got);
}

std::int64_t ArchiveStream::consumed_bytes() const {
  return levels_.empty() ? 0 : archive_filter_bytes(levels_.front()->reader, -1);
}

}  // namespace neox
