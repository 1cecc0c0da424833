// Text to token files (Megatron's .bin/.idx), or text to a BPE vocabulary.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <thread>
#include <unistd.h>

#include <boost/program_options.hpp>
#include <fmt/core.h>

#include "core/base/error.h"
#include "core/base/format.h"
#include "core/base/version.h"
#include "io/data/indexed_dataset.h"
#include "io/data/partial_file.h"
#include "io/data/preprocess.h"
#include "io/tokenizer/bpe_trainer.h"

namespace neox {
namespace {

namespace po = boost::program_options;
using Clock = std::chrono::steady_clock;

struct CommandLine {
  PreprocessOptions preprocess;
  std::string tokenizer_type, vocab_file, merge_file;
  std::string train_tokenizer;  // the file to write; empty: no training
  BpeTrainerOptions trainer;
  bool split_lines = false;
  std::string completion_key;  // with it, prompts and completions
  std::string prompt_key;
  std::string mask_before_token;  // "1,2,3"
};

constexpr const char* kUsage =
    "Turns text into the token files that neox_train reads, or learns a tokenizer from text.\n"
    "\n"
    "  neox_preprocess --input FILE... --vocab-file tokenizer.json --output-prefix PREFIX\n"
    "      writes PREFIX_text_document.bin and .idx\n"
    "  neox_preprocess --input FILE... --vocab-file ... --output-prefix PREFIX \\\n"
    "      --prompt-key prompt --completion-key completion    or    --chat-template chatml\n"
    "      for fine-tuning: also writes PREFIX_KEY_label_document, in which tokens without a loss\n"
    "      are -100; give it to data.train_label_data_paths\n"
    "  neox_preprocess --input FILE... --train-tokenizer tokenizer.json --vocab-size N\n"
    "      learns a byte-level BPE of N tokens\n"
    "\n"
    "Inputs are .jsonl (one {\"text\": \"...\"} per line) and .txt, also compressed (.zst .gz .xz\n"
    ".bz2) and in archives (.zip .tar .tar.gz); a directory stands for all such files in it.\n"
    "The order of documents is kept, whatever the number of workers; empty ones are left out.\n";

po::options_description describe(CommandLine& out) {
  const int threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  po::options_description input("Input", 100), tokens("Tokenizing", 100),
      tune("Fine-tuning data", 100), train("Training a tokenizer", 100), other("Other", 100), all;
  TextInputs& inputs = out.preprocess.inputs;
  input.add_options()  //
      ("input", po::value(&inputs.files)->multitoken()->value_name("FILE..."),
       "files or directories with text")  //
      ("jsonl-keys", po::value(&inputs.keys)->multitoken()->value_name("KEY..."),
       "keys of the jsonl objects (default: text); each key gets its own output")  //
      ("split-lines", po::bool_switch(&out.split_lines),
       "plain text: every line is a document (otherwise every file is one)")  //
      ("document-separator", po::value(&inputs.separator)->value_name("TEXT"),
       "plain text: documents are separated by this; \\n and \\t are understood")  //
      ("workers", po::value(&inputs.workers)->default_value(threads)->value_name("N"), "threads");
  tokens.add_options()  //
      ("output-prefix", po::value(&out.preprocess.output_prefix)->value_name("PREFIX"),
       "the files are PREFIX_KEY_document.bin and .idx")  //
      ("tokenizer-type", po::value(&out.tokenizer_type)->value_name("TYPE"),
       "HFTokenizer, GPT2BPETokenizer, SPMTokenizer, TiktokenTokenizer or CharLevelTokenizer; "
       "default: what the files are")  //
      ("vocab-file", po::value(&out.vocab_file)->value_name("FILE"),
       "tokenizer.json, GPT-2's vocab.json, a .model or a .tiktoken file")                  //
      ("merge-file", po::value(&out.merge_file)->value_name("FILE"), "GPT-2's merges.txt")  //
      ("append-eod", po::bool_switch(&out.preprocess.append_eod),
       "end every document with <|endoftext|>");
  LabelOptions& labels = out.preprocess.labels;
  tune.add_options()  //
      ("prompt-key", po::value(&out.prompt_key)->value_name("KEY"),
       "jsonl key of a text without a loss")  //
      ("completion-key", po::value(&out.completion_key)->value_name("KEY"),
       "jsonl key of the text that follows it and has a loss; the files are PREFIX_text_...")  //
      ("chat-template", po::value(&labels.chat_template)->value_name("NAME"),
       ("conversations: [{\"role\": ..., \"content\": ...}, ...] under key messages; written as " +
        ChatTemplate::names())
           .c_str())  //
      ("generation-role",
       po::value(&labels.chat.generation_role)->default_value("assistant")->value_name("ROLE"),
       "whose turns have a loss")  //
      ("only-last", po::bool_switch(&labels.chat.only_last),
       "only the last turn of a conversation has a loss")                                  //
      ("no-mask", po::bool_switch(&labels.chat.all), "the whole conversation has a loss")  //
      ("mask-before-token", po::value(&out.mask_before_token)->value_name("ID,ID,..."),
       "no loss up to the first occurrence of these tokens, which are a delimiter");
  train.add_options()  //
      ("train-tokenizer", po::value(&out.train_tokenizer)->value_name("FILE"),
       "learn a byte-level BPE and write it here as tokenizer.json")  //
      ("vocab-size", po::value(&out.trainer.vocab_size)->value_name("N"),
       "tokens to learn, with the special tokens and the 256 bytes")  //
      ("min-frequency", po::value(&out.trainer.min_frequency)->default_value(0)->value_name("N"),
       "do not merge pairs that occur less often")  //
      ("special-tokens",
       po::value(&out.trainer.special_tokens)->multitoken()->value_name("TOKEN..."),
       "ids 0, 1, ... (default: <|endoftext|>)");
  other.add_options()("help,h", "this text")("version", "the version");
  all.add(input).add(tokens).add(tune).add(train).add(other);
  return all;
}

std::string unescape(const std::string& text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\' || i + 1 == text.size()) {
      out += text[i];
      continue;
    }
    const char c = text[++i];
    require(c == 'n' || c == 't' || c == 'r' || c == '\\',
            "--document-separator: '\\{}' is unknown; \\n, \\r, \\t and \\\\ are understood", c);
    out += c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : '\\';
  }
  return out;
}

std::vector<std::int32_t> token_ids(const std::string& text) {
  std::vector<std::int32_t> ids;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const char *first = text.data() + begin, *last = text.data() + end;
    std::int32_t id = -1;
    const auto [rest, error] = std::from_chars(first, last, id);
    require(error == std::errc() && rest == last && id >= 0,
            "--mask-before-token {}: expected token ids as in 13,4521", text);
    ids.push_back(id);
    begin = end + 1;
  }
  return ids;
}

// What the options for fine-tuning data ask for.
void choose_labels(CommandLine& line, const po::variables_map& given) {
  LabelOptions& labels = line.preprocess.labels;
  const auto has = [&](const char* name) { return given.count(name) != 0; };
  const bool pairs = has("prompt-key") || has("completion-key"), chat = has("chat-template");
  const bool delimiter = has("mask-before-token");
  require(pairs + chat + delimiter <= 1,
          "--completion-key, --chat-template and --mask-before-token exclude each other");
  require(
      chat || (given["generation-role"].defaulted() && !labels.chat.only_last && !labels.chat.all),
      "--generation-role, --only-last and --no-mask go with --chat-template");
  require(!(labels.chat.only_last && labels.chat.all),
          "--only-last and --no-mask exclude each other");
  require(!pairs || (has("prompt-key") && has("completion-key")),
          "--prompt-key and --completion-key belong together");
  require(!pairs || !has("jsonl-keys"), "--jsonl-keys does not go with --completion-key");
  if (pairs) {
    labels.source = LabelSource::prompt_completion;
    line.preprocess.inputs.keys = {line.prompt_key, line.completion_key};
  } else if (chat) {
    labels.source = LabelSource::conversations;
    if (!has("jsonl-keys")) line.preprocess.inputs.keys = {"messages"};
  } else if (delimiter) {
    labels.source = LabelSource::delimiter;
    labels.delimiter = token_ids(line.mask_before_token);
  }
}

void check(CommandLine& line, const po::variables_map& given) {
  require(!line.preprocess.inputs.files.empty(), "--input is missing (--help explains)");
  const bool training = given.count("train-tokenizer") != 0;
  const auto only = [&](bool allowed, std::initializer_list<const char*> names, const char* why) {
    for (const char* name : names) {
      require(allowed || given.count(name) == 0 || given[name].defaulted(), "--{}: {}", name, why);
    }
  };
  only(!training,
       {"output-prefix", "tokenizer-type", "vocab-file", "merge-file", "document-separator",
        "prompt-key", "completion-key", "chat-template", "generation-role", "mask-before-token"},
       "does not go with --train-tokenizer");
  only(training, {"vocab-size", "min-frequency", "special-tokens"},
       "goes with --train-tokenizer only");
  require(!training || !(line.preprocess.append_eod || line.split_lines),
          "--append-eod and --split-lines do not go with --train-tokenizer");
  choose_labels(line, given);
  require(!training || !line.train_tokenizer.empty(), "--train-tokenizer: the file name is empty");
  for (const std::string& input : line.preprocess.inputs.files) {
    std::error_code ignored;
    require(!std::filesystem::equivalent(input, line.train_tokenizer, ignored),
            "--train-tokenizer {} would replace the text given to --input; name another file",
            line.train_tokenizer);
  }
  require(line.trainer.min_frequency >= 0, "--min-frequency {}: expected 0 or more",
          line.trainer.min_frequency);
  require(!training || given.count("vocab-size") != 0, "--train-tokenizer needs --vocab-size");
  require(training || !line.preprocess.output_prefix.empty(), "--output-prefix is missing");
  require(training || !line.tokenizer_type.empty() || !line.vocab_file.empty(),
          "a tokenizer is missing: give --vocab-file, or --tokenizer-type CharLevelTokenizer");
  require(!line.split_lines || given.count("document-separator") == 0,
          "--split-lines and --document-separator exclude each other");
  std::string& separator = line.preprocess.inputs.separator;
  separator = line.split_lines ? "\n" : unescape(separator);
}

// One line on a terminal, redrawn ten times a second; nothing elsewhere.
class ProgressLine {
 public:
  explicit ProgressLine(std::string what) : what_(std::move(what)) {}
  ~ProgressLine() { clear(); }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void operator()(const PreprocessProgress& now) {
    if (!terminal_ || Clock::now() - drawn_ < std::chrono::milliseconds(100)) return;
    const double seconds = elapsed();
    const double done = static_cast<double>(now.input_bytes);
    const double total = static_cast<double>(now.total_input_bytes);
    const std::string eta =
        done > 0 ? format_duration(seconds * std::max(0.0, total - done) / done) : "?";
    draw(fmt::format("{} {:3.0f}% | {} documents | {:.1f} MB/s | ETA {}", what_,
                     total > 0 ? std::min(100.0, 100 * done / total) : 100.0,
                     format_grouped(now.documents),
                     static_cast<double>(now.text_bytes) / 1e6 / seconds, eta));
  }
  void draw(const std::string& text) {
    if (!terminal_) return;
    fmt::print(stderr, "\r\033[K{}", text);
    std::fflush(stderr);
    drawn_ = Clock::now();
  }
  void clear() {
    if (terminal_) fmt::print(stderr, "\r\033[K");
  }
  double elapsed() const {
    return std::max(1e-9, std::chrono::duration<double>(Clock::now() - start_).count());
  }

 private:
  std::string what_;
  bool terminal_ = ::isatty(2) != 0;
  Clock::time_point start_ = Clock::now(), drawn_{};
};

void run_preprocess(const CommandLine& line) {
  const auto tokenizer = load_tokenizer(line.tokenizer_type, line.vocab_file, line.merge_file);
  ProgressLine bar("tokenizing");
  const PreprocessProgress done =
      preprocess(line.preprocess, *tokenizer, [&](const PreprocessProgress& now) { bar(now); });
  const double seconds = bar.elapsed();
  bar.clear();
  fmt::print("{} documents, {} tokens from {:.2f} MB of text in {} ({:.1f} MB/s){}\n",
             format_grouped(done.documents), format_grouped(done.tokens),
             static_cast<double>(done.text_bytes) / 1e6, format_duration(seconds),
             static_cast<double>(done.text_bytes) / 1e6 / seconds,
             done.empty_documents == 0 ? ""
                                       : fmt::format("; {} empty documents left out",
                                                     format_grouped(done.empty_documents)));
  const LabelOptions& labels = line.preprocess.labels;
  const bool pairs = labels.source == LabelSource::prompt_completion;
  for (const std::string& key :
       pairs ? std::vector<std::string>{"text"} : line.preprocess.inputs.keys) {
    const std::string prefix = fmt::format("{}_{}", line.preprocess.output_prefix, key);
    fmt::print("wrote {}_document.{{bin,idx}} ({}, vocabulary {})\n", prefix,
               name_of(token_dtype(tokenizer->vocab_size())), tokenizer->vocab_size());
    if (labels.source != LabelSource::none) {
      fmt::print("wrote {}_label_document.{{bin,idx}}\n", prefix);
    }
  }
  if (labels.source != LabelSource::none) {
    fmt::print("{} of {} tokens have a loss; {} documents have none that has\n",
               format_grouped(done.labels), format_grouped(done.tokens),
               format_grouped(done.without_labels));
  }
  if (labels.source == LabelSource::conversations) {
    for (const std::string_view marker : ChatTemplate(labels.chat_template).markers()) {
      if (tokenizer->token_to_id(marker)) continue;
      fmt::print(stderr, "warning: the tokenizer has no token {}: it was encoded as text\n",
                 marker);
    }
  }
}

void run_training(CommandLine& line) {
  // An output that can't be written must not show after hours.
  require(PartialFile::try_create(line.train_tokenizer).has_value(),
          "another process is writing {}.partial", line.train_tokenizer);
  ProgressLine bar("counting words");
  const WordCounts words =
      count_words(line.preprocess.inputs, [&](const PreprocessProgress& now) { bar(now); });
  Clock::time_point last{};
  line.trainer.progress = [&](std::int64_t tokens) {
    if (Clock::now() - last < std::chrono::milliseconds(100)) return;
    last = Clock::now();
    bar.draw(fmt::format("merging: {} of {} tokens", tokens, line.trainer.vocab_size));
  };
  const TrainedBpe bpe = train_bpe(words, line.trainer);
  write_tokenizer_json(bpe, line.train_tokenizer);
  const double seconds = bar.elapsed();
  bar.clear();
  fmt::print("learned {} merges from {} different words in {}; wrote {} ({} tokens)\n",
             format_grouped(static_cast<std::int64_t>(bpe.merges.size())),
             format_grouped(words.size()), format_duration(seconds), line.train_tokenizer,
             bpe.tokens.size());
  if (static_cast<std::int64_t>(bpe.tokens.size()) < line.trainer.vocab_size) {
    fmt::print("the text has no more pairs to merge: {} tokens instead of {}\n", bpe.tokens.size(),
               line.trainer.vocab_size);
  }
}

int run(int argc, char** argv) {
  require_compatible_cpu();
  CommandLine line;
  const po::options_description options = describe(line);
  po::variables_map given;
  po::store(
      po::command_line_parser(argc, argv)
          .options(options)
          .positional(po::positional_options_description())
          .style(po::command_line_style::default_style & ~po::command_line_style::allow_guessing)
          .run(),
      given);
  if (given.count("help") != 0 || argc == 1) {
    std::cout << kUsage << options;
    return argc == 1 ? 1 : 0;
  }
  if (given.count("version") != 0) {
    fmt::print("neox_preprocess {}\n", version());
    return 0;
  }
  po::notify(given);
  check(line, given);
  line.train_tokenizer.empty() ? run_preprocess(line) : run_training(line);
  return 0;
}

}  // namespace
}  // namespace neox

int main(int argc, char** argv) {
  try {
    return neox::run(argc, argv);
  } catch (const boost::program_options::too_many_positional_options_error&) {
    fmt::print(stderr, "neox_preprocess: an argument belongs to no option; files go to --input\n");
    return 1;
  } catch (const std::exception& error) {
    fmt::print(stderr, "neox_preprocess: {}\n", error.what());
    return 1;
  }
}
