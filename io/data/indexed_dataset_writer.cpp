#include <limits>
#include <unistd.h>
#include <utility>

#include "core/base/error.h"
#include "io/data/indexed_dataset.h"

namespace neox {
namespace {

constexpr std::size_t kBufferBytes = std::size_t{1} << 20;

std::uint8_t code_of(DType dtype) {
  switch (dtype) {
    case DType::u8:
      return 1;
    case DType::i8:
      return 2;
    case DType::i16:
      return 3;
    case DType::i32:
      return 4;
    case DType::i64:
      return 5;
    case DType::u16:
      return 8;
    default:
      fail("token files hold u8, i8, i16, i32, i64 or u16, not {}", name_of(dtype));
  }
}

PartialFile create_file(const std::string& path) {
  auto file = PartialFile::try_create(path);
  require(file.has_value(),
          "another process is writing '{}': wait for it, or choose another output prefix", path);
  return std::move(*file);
}

// Collects small values into large writes.
class BufferedOutput {
 public:
  explicit BufferedOutput(PartialFile& file) : file_(file) { buffer_.reserve(kBufferBytes); }
  template <class T>
  void put(const T& value) {
    if (buffer_.size() + sizeof value > kBufferBytes) flush();
    const auto* from = reinterpret_cast<const std::byte*>(&value);
    buffer_.insert(buffer_.end(), from, from + sizeof value);
  }
  void flush() {
    file_.write(buffer_);
    buffer_.clear();
  }

 private:
  PartialFile& file_;
  std::vector<std::byte> buffer_;
};

}  // namespace

IndexedDatasetWriter::IndexedDatasetWriter(std::string prefix, DType dtype)
    : prefix_(std::move(prefix)), dtype_(dtype) {
  code_of(dtype);
  bin_.emplace(create_file(prefix_ + ".bin"));
  pending_.reserve(kBufferBytes);
}

template <class T>
void IndexedDatasetWriter::append_as(std::span<const std::int32_t> tokens) {
  // Everything is checked before anything is taken: after an error the file holds whole sequences.
  for (std::size_t k = 0; k < tokens.size(); ++k) {
    require(std::in_range<T>(tokens[k]),
            "'{}.bin': sequence {}, position {}: token {} does not fit {} (0 … {}): write the file "
            "with a larger element type",
            prefix_, num_sequences(), k, tokens[k], name_of(dtype_), std::numeric_limits<T>::max());
  }
  for (const std::int32_t token : tokens) {
    if (pending_.size() + sizeof(T) > kBufferBytes) flush();
    const auto value = static_cast<T>(token);
    const auto* from = reinterpret_cast<const std::byte*>(&value);
    pending_.insert(pending_.end(), from, from + sizeof value);
  }
}

void IndexedDatasetWriter::add_sequence(std::span<const std::int32_t> tokens) {
  require(bin_.has_value(), "'{}.bin' is finished: nothing can be added to it", prefix_);
  require(std::in_range<std::int32_t>(tokens.size()) &&
              std::in_range<std::int32_t>(lengths_.size() + 1),
          "'{}.bin': sequence {} has {} tokens; the format holds 2147483647 sequences of as many "
          "tokens: split the input",
          prefix_, num_sequences(), tokens.size());
  switch (dtype_) {
    case DType::u8:
      append_as<std::uint8_t>(tokens);
      break;
    case DType::i8:
      append_as<std::int8_t>(tokens);
      break;
    case DType::i16:
      append_as<std::int16_t>(tokens);
      break;
    case DType::i32:
      append_as<std::int32_t>(tokens);
      break;
    case DType::i64:
      append_as<std::int64_t>(tokens);
      break;
    default:
      append_as<std::uint16_t>(tokens);
      break;
  }
  lengths_.push_back(static_cast<std::int32_t>(tokens.size()));
  num_tokens_ += static_cast<std::int64_t>(tokens.size());
}

void IndexedDatasetWriter::end_document() {
  ++num_documents_;
  if (one_sequence_each_ && num_sequences() == num_documents_) return;
  if (one_sequence_each_) {  // the first document of another kind: write down those before it
    one_sequence_each_ = false;
    boundaries_.reserve(static_cast<std::size_t>(num_documents_));
    for (std::int64_t d = 1; d < num_documents_; ++d) boundaries_.push_back(d);
  }
  boundaries_.push_back(num_sequences());
}

void IndexedDatasetWriter::flush() {
  bin_->write(pending_);
  pending_.clear();
}

void IndexedDatasetWriter::write_index() {
  PartialFile file = create_file(prefix_ + ".idx");
  BufferedOutput out(file);
  for (const char c : {'M', 'M', 'I', 'D', 'I', 'D', 'X', '\0', '\0'}) out.put(c);
  out.put(std::uint64_t{1});
  out.put(code_of(dtype_));
  out.put(static_cast<std::uint64_t>(lengths_.size()));
  out.put(static_cast<std::uint64_t>(num_documents_ + 1));
  for (const std::int32_t length : lengths_) out.put(length);
  std::int64_t offset = 0;
  for (const std::int32_t length : lengths_) {
    out.put(offset);
    offset += length * static_cast<std::int64_t>(size_of(dtype_));
  }
  out.put(std::int64_t{0});
  for (std::int64_t d = 1; d <= num_documents_; ++d) {
    out.put(one_sequence_each_ ? d : boundaries_[static_cast<std::size_t>(d - 1)]);
  }
  out.flush();
  file.sync();
  // An old index must never be seen beside the new tokens, so it goes first; until the new one is
  // there, the pair is visibly incomplete.
  ::unlink((prefix_ + ".idx").c_str());
  bin_->publish();
  file.publish();
}

void IndexedDatasetWriter::finish() {
  require(bin_.has_value(), "'{}.bin' is finished already", prefix_);
  const std::int64_t ended = num_documents_ == 0  ? 0
                             : one_sequence_each_ ? num_documents_
                                                  : boundaries_.back();
  require(ended == num_sequences(),
          "'{}.bin': the last document was not ended: {} sequences follow document {}", prefix_,
          num_sequences() - ended, num_documents_);
  flush();
  bin_->sync();
  write_index();
  bin_.reset();
}

}  // namespace neox
