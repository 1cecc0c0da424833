#include "io/data/preprocess.h"

#include <memory>

#include "core/base/error.h"
#include "io/data/indexed_dataset.h"
#include "io/data/ordered_pipeline.h"
#include "io/data/text_blocks.h"

namespace neox {
namespace {

// What a block became.
struct EncodedBlock {
  struct Key {
    std::vector<std::int32_t> ids;      // of all documents
    std::vector<std::int64_t> lengths;  // ids of each
  };
  std::vector<Key> keys;
  std::int64_t empty_documents = 0;
  std::int64_t text_bytes = 0;
  std::int64_t input_bytes = 0;  // read of the files when this block was
};

// A block and how far the reader was after it.
struct Input {
  TextBlock block;
  std::int64_t input_bytes;
};

std::optional<Input> read_input(TextBlockReader& reader) {
  std::optional<TextBlock> block = reader.next();
  if (!block) return std::nullopt;
  return Input{std::move(*block), reader.consumed_bytes()};
}

class Encoder {
 public:
  Encoder(const PreprocessOptions& options, const Tokenizer& tokenizer)
      : options_(options), tokenizer_(tokenizer), eod_(tokenizer.eod_id()) {
    require(!options.append_eod || eod_.has_value(),
            "--append-eod: the tokenizer has no end-of-document token (<|endoftext|>)");
  }

  EncodedBlock operator()(const Input& input) const {
    EncodedBlock out;
    out.keys.resize(options_.inputs.keys.size());
    out.input_bytes = input.input_bytes;
    visit_documents(input.block, options_.inputs.keys,
                    [&](std::size_t key, std::string_view text, const std::string& place) {
                      out.text_bytes += static_cast<std::int64_t>(text.size());
                      if (!encode(text, place, out.keys[key])) ++out.empty_documents;
                    });
    return out;
  }

 private:
  bool encode(std::string_view text, const std::string& place, EncodedBlock::Key& out) const {
    if (text.empty()) return false;
    const std::size_t before = out.ids.size();
    const auto prefix = tokenizer_.prefix_ids(), suffix = tokenizer_.suffix_ids();
    out.ids.insert(out.ids.end(), prefix.begin(), prefix.end());
    try {
      tokenizer_.encode(text, out.ids);
    } catch (const Error& error) {
      fail("{}: {}", place, error.what());
    }
    if (out.ids.size() == before + prefix.size()) {  // the normalizer left nothing
      out.ids.resize(before);
      return false;
    }
    out.ids.insert(out.ids.end(), suffix.begin(), suffix.end());
    if (options_.append_eod) out.ids.push_back(*eod_);
    out.lengths.push_back(static_cast<std::int64_t>(out.ids.size() - before));
    return true;
  }

  const PreprocessOptions& options_;
  const Tokenizer& tokenizer_;
  std::optional<std::int32_t> eod_;
};

using Writers = std::vector<std::unique_ptr<IndexedDatasetWriter>>;

void write_block(const EncodedBlock& block, Writers& writers, PreprocessProgress& progress) {
  for (std::size_t key = 0; key < writers.size(); ++key) {
    std::span<const std::int32_t> ids = block.keys[key].ids;
    for (const std::int64_t length : block.keys[key].lengths) {
      writers[key]->add_sequence(ids.first(static_cast<std::size_t>(length)));
      writers[key]->end_document();
      ids = ids.subspan(static_cast<std::size_t>(length));
    }
    progress.tokens += static_cast<std::int64_t>(block.keys[key].ids.size());
    progress.documents += static_cast<std::int64_t>(block.keys[key].lengths.size());
  }
  progress.empty_documents += block.empty_documents;
  progress.text_bytes += block.text_bytes;
  progress.input_bytes = block.input_bytes;
}

void check_keys(const std::vector<std::string>& keys) {
  for (std::size_t i = 0; i < keys.size(); ++i) {
    require(!keys[i].empty() && keys[i].find('/') == std::string::npos,
            "the key '{}' can't be part of a file name", keys[i]);
    for (std::size_t j = 0; j < i; ++j) {
      require(keys[i] != keys[j], "the key '{}' is given twice", keys[i]);
    }
  }
}

std::string name_inputs(const TextInputs& inputs) {
  const std::size_t more = inputs.files.size() - 1;
  return more == 0 ? inputs.files[0] : fmt::format("{} and {} more", inputs.files[0], more);
}

void check_workers(int workers) {
  require(workers >= 1 && workers <= 1024, "--workers {}: expected 1 to 1024 threads", workers);
}

}  // namespace

PreprocessProgress preprocess(const PreprocessOptions& options, const Tokenizer& tokenizer,
                              const PreprocessReport& report) {
  check_keys(options.inputs.keys);
  check_workers(options.inputs.workers);
  const Encoder encoder(options, tokenizer);
  TextBlockReader reader(options.inputs.files, options.inputs.separator);
  Writers writers;
  for (const std::string& key : options.inputs.keys) {
    writers.push_back(std::make_unique<IndexedDatasetWriter>(
        fmt::format("{}_{}_document", options.output_prefix, key),
        token_dtype(tokenizer.vocab_size())));
  }
  PreprocessProgress progress;
  progress.total_input_bytes = reader.total_bytes();
  OrderedPipeline<Input, EncodedBlock> pipeline([&] { return read_input(reader); },
                                                [&](int, Input input) { return encoder(input); },
                                                [&](EncodedBlock block) {
                                                  write_block(block, writers, progress);
                                                  if (report) report(progress);
                                                });
  pipeline.run(options.inputs.workers);
  for (std::size_t key = 0; key < writers.size(); ++key) {
    require(writers[key]->num_documents() > 0,
            "the inputs ({}) have no text{}: nothing to write ({} empty documents)",
            name_inputs(options.inputs),
            writers.size() > 1 ? fmt::format(" under key '{}'", options.inputs.keys[key]) : "",
            progress.empty_documents);
  }
  for (auto& writer : writers) writer->finish();
  return progress;
}

WordCounts count_words(const TextInputs& inputs, const PreprocessReport& report) {
  check_keys(inputs.keys);
  check_workers(inputs.workers);
  TextBlockReader reader(inputs.files, "\n");
  std::vector<WordCounts> counts(static_cast<std::size_t>(inputs.workers));
  PreprocessProgress progress;
  progress.total_input_bytes = reader.total_bytes();
  const auto count = [&](int worker, const Input& input) {
    WordCounts& words = counts[static_cast<std::size_t>(worker)];
    PreprocessProgress done;
    done.input_bytes = input.input_bytes;
    const bool lines = input.block.format == TextFormat::plain;
    visit_documents(input.block, inputs.keys,
                    [&](std::size_t, std::string_view text, const std::string&) {
                      // In a block of plain text a line is followed by its end, unless it is the
                      // last.
                      const std::string_view block = input.block.bytes;
                      if (lines && text.data() + text.size() < block.data() + block.size()) {
                        text = {text.data(), text.size() + 1};
                      }
                      words.add_text(text);
                      ++done.documents;
                      done.text_bytes += static_cast<std::int64_t>(text.size());
                    });
    return done;
  };
  OrderedPipeline<Input, PreprocessProgress> pipeline([&] { return read_input(reader); }, count,
                                                      [&](PreprocessProgress done) {
                                                        progress.documents += done.documents;
                                                        progress.text_bytes += done.text_bytes;
                                                        progress.input_bytes = done.input_bytes;
                                                        if (report) report(progress);
                                                      });
  pipeline.run(inputs.workers);
  require(progress.text_bytes > 0, "the inputs ({}) have no text to learn from",
          name_inputs(inputs));
  for (std::size_t i = 1; i < counts.size(); ++i) {
    counts[0].merge(counts[i]);
    counts[i] = WordCounts();
  }
  return std::move(counts[0]);
}

}  // namespace neox
