#pragma once
// The text files inside compressed files and archives, as streams of bytes.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace neox {

enum class TextFormat : std::uint8_t { jsonl, plain };

/// Whether a file's name is one that neox reads: .jsonl or .txt, also followed by .zst .gz .xz
/// .bz2; or .zip, .tar, .tgz (compressed or not) of such files.
bool is_text_file_name(std::string_view name);

/// Walks over the text files in one file: just itself, or an archive's members in their order
/// (lm_dataformat's .jsonl.zst.tar and .txt.tar.gz included).
class ArchiveStream {
 public:
  /// Throws Error when the file can't be opened or its name says nothing neox knows.
  explicit ArchiveStream(const std::string& path);
  ~ArchiveStream();
  ArchiveStream(ArchiveStream&&) noexcept;
  ArchiveStream& operator=(ArchiveStream&&) noexcept;

  /// Goes on to the next text file; false when there is none. Throws Error for a damaged archive.
  bool next_file();
  /// "corpus.txt", or "corpus.tar.gz:member.txt".
  const std::string& name() const;
  TextFormat format() const;
  /// Reads up to `size` bytes of it; 0 at its end. Throws Error for damaged data.
  std::size_t read(char* out, std::size_t size);
  /// Bytes of the file on disk read so far.
  std::int64_t consumed_bytes() const;

 private:
  struct Level;
  void open_level(const std::string& name, TextFormat fallback, bool has_fallback);
  std::vector<std::unique_ptr<Level>>
      levels_;  // the file, then archives and compressed members in it
};

}  // namespace neox
