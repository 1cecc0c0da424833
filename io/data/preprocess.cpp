#include "io/data/preprocess.h"

#include <algorithm>
#include <memory>

#include "core/base/error.h"
#include "io/data/indexed_dataset.h"
#include "io/data/ordered_pipeline.h"
#include "io/data/text_blocks.h"

namespace neox {
namespace {

// What a block became.
struct EncodedBlock {
  struct Output {
    LabelledTokens tokens;              // of all documents
    std::vector<std::int64_t> lengths;  // tokens of each
  };
  std::vector<Output> outputs;
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

// The <key> of each pair of files.
std::vector<std::string> output_keys(const PreprocessOptions& options) {
  if (options.labels.source == LabelSource::prompt_completion) return {"text"};
  return options.inputs.keys;
}

class Encoder {
 public:
  Encoder(const PreprocessOptions& options, const Tokenizer& tokenizer)
      : options_(options), encoder_(tokenizer, options.labels, options.append_eod) {}

  EncodedBlock operator()(const Input& input) const {
    EncodedBlock out;
    out.outputs.resize(output_keys(options_).size());
    out.input_bytes = input.input_bytes;
    switch (options_.labels.source) {
      case LabelSource::prompt_completion:
        completions(input.block, out);
        break;
      case LabelSource::conversations:
        conversations(input.block, out);
        break;
      default:
        texts(input.block, out);
    }
    return out;
  }

 private:
  // Adds what `add` appends to an output as a document.
  template <class Add>
  void document(EncodedBlock::Output& output, const std::string& place, EncodedBlock& out,
                Add&& add) const {
    const std::size_t before = output.tokens.ids.size();
    bool any = false;
    try {
      any = add(output.tokens);
    } catch (const Error& error) {
      fail("{}: {}", place, error.what());
    }
    if (any) {
      output.lengths.push_back(static_cast<std::int64_t>(output.tokens.ids.size() - before));
    } else {
      ++out.empty_documents;
    }
  }

  void texts(const TextBlock& block, EncodedBlock& out) const {
    visit_documents(block, options_.inputs.keys,
                    [&](std::size_t key, std::string_view text, const std::string& place) {
                      out.text_bytes += static_cast<std::int64_t>(text.size());
                      document(out.outputs[key], place, out, [&](LabelledTokens& tokens) {
                        return encoder_.add_text(text, tokens);
                      });
                    });
  }

  void completions(const TextBlock& block, EncodedBlock& out) const {
    std::string prompt;
    visit_documents(block, options_.inputs.keys,
                    [&](std::size_t key, std::string_view text, const std::string& place) {
                      out.text_bytes += static_cast<std::int64_t>(text.size());
                      if (key == 0) {
                        prompt = text;
                        return;
                      }
                      document(out.outputs[0], place, out, [&](LabelledTokens& tokens) {
                        return encoder_.add_completion(prompt, text, tokens);
                      });
                    });
  }

  void conversations(const TextBlock& block, EncodedBlock& out) const {
    for (std::size_t key = 0; key < options_.inputs.keys.size(); ++key) {
      visit_conversations(block, options_.inputs.keys[key],
                          [&](std::span<const ChatMessage> messages, const std::string& place) {
                            for (const ChatMessage& message : messages) {
                              out.text_bytes += static_cast<std::int64_t>(message.content.size());
                            }
                            document(out.outputs[key], place, out, [&](LabelledTokens& tokens) {
                              return encoder_.add_conversation(messages, tokens);
                            });
                          });
    }
  }

  const PreprocessOptions& options_;
  LabelledEncoder encoder_;
};

// The files of one key.
struct Writers {
  std::unique_ptr<IndexedDatasetWriter> tokens, labels;  // labels: null without
};

std::vector<Writers> open_writers(const PreprocessOptions& options, std::int64_t vocab_size) {
  std::vector<Writers> writers;
  for (const std::string& key : output_keys(options)) {
    Writers& to = writers.emplace_back();
    to.tokens = std::make_unique<IndexedDatasetWriter>(
        fmt::format("{}_{}_document", options.output_prefix, key), token_dtype(vocab_size));
    if (options.labels.source == LabelSource::none) continue;
    to.labels = std::make_unique<IndexedDatasetWriter>(
        fmt::format("{}_{}_label_document", options.output_prefix, key), DType::i32);
  }
  return writers;
}

void write_document(IndexedDatasetWriter& writer, std::span<const std::int32_t> tokens) {
  writer.add_sequence(tokens);
  writer.end_document();
}

void write_block(const EncodedBlock& block, std::vector<Writers>& writers,
                 PreprocessProgress& progress) {
  for (std::size_t key = 0; key < writers.size(); ++key) {
    const EncodedBlock::Output& output = block.outputs[key];
    std::span<const std::int32_t> ids = output.tokens.ids, labels = output.tokens.labels;
    for (const std::int64_t length : output.lengths) {
      const auto count = static_cast<std::size_t>(length);
      write_document(*writers[key].tokens, ids.first(count));
      ids = ids.subspan(count);
      if (!writers[key].labels) continue;
      write_document(*writers[key].labels, labels.first(count));
      const auto counted = std::count_if(labels.begin(), labels.begin() + length,
                                         [](std::int32_t label) { return label >= 0; });
      progress.labels += counted;
      progress.without_labels += counted == 0 ? 1 : 0;
      labels = labels.subspan(count);
    }
    progress.tokens += static_cast<std::int64_t>(output.tokens.ids.size());
    progress.documents += static_cast<std::int64_t>(output.lengths.size());
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
  require(
      options.labels.source != LabelSource::prompt_completion || options.inputs.keys.size() == 2,
      "prompts and completions are two keys, not {}", options.inputs.keys.size());
  const Encoder encoder(options, tokenizer);
  TextBlockReader reader(options.inputs.files, options.inputs.separator);
  std::vector<Writers> writers = open_writers(options, tokenizer.vocab_size());
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
    require(writers[key].tokens->num_documents() > 0,
            "the inputs ({}) have no text{}: nothing to write ({} empty documents)",
            name_inputs(options.inputs),
            writers.size() > 1 ? fmt::format(" under key '{}'", options.inputs.keys[key]) : "",
            progress.empty_documents);
  }
  for (Writers& to : writers) {
    to.tokens->finish();
    if (to.labels) to.labels->finish();
  }
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
