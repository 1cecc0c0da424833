#pragma once
// A model taken from a checkpoint, with its tokenizer, ready to continue text.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "comm/communicator.h"
#include "core/config/config.h"
#include "core/config/parse.h"
#include "core/model/generator.h"
#include "io/tokenizer/tokenizer.h"

namespace neox {

struct GeneratedSample {
  std::string context;
  std::string text;         ///< generated, without the context
  std::int64_t length = 0;  ///< tokens generated
  bool finished = false;    ///< ended by the end-of-document token
  std::string message;      ///< why it ended, when not finished
  double duration_seconds = 0.0;
};

class InferenceModel {
 public:
  /// Opens checkpoint.load (or checkpoint.save): a directory, of which checkpoint.iteration or the
  /// newest is taken, or one .h5 file. The model is what the checkpoint says; tokenizer and
  /// precision are the checkpoint's unless `origins` says that they were set. Throws Error.
  InferenceModel(const Config& config, const Origins& origins);

  /// Throws Error when generate() would not take `prompt`.
  void check_prompt(const std::string& prompt) const;

  /// Continues `prompt` (empty: starts from the end-of-document token); `on_bytes` sees the text's
  /// bytes as they are produced. `stream` numbers the sample.
  GeneratedSample generate(const std::string& prompt, const GenerateConfig& options,
                           std::uint64_t stream,
                           const std::function<void(std::string_view)>& on_bytes);

 private:
  std::vector<std::int32_t> encode(const std::string& prompt) const;

  std::unique_ptr<Communicator> self_;
  Device device_;
  std::unique_ptr<Backend> ops_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::optional<Transformer> model_;
  std::optional<Generator> generator_;
  std::uint64_t seed_ = 0;
};

}  // namespace neox
