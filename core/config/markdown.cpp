// docs/config.md
#include <limits>

#include <fmt/format.h>

#include "core/config/describe.h"
#include "core/config/option.h"

namespace neox {

namespace {

constexpr const char* kIntroduction = R"(# Configuration

This page is made from the option table in `core/config/options_*.cpp`; do not edit it. Refresh it
with `build/release/bin/neox_train --print-config-docs > docs/config.md`.

## Files and command line

A run is configured by INI files and the command line:

```
mpirun -np 2 neox_train --config configs/quickstart.ini --config mine.ini --optimizer.lr 3e-4
```

* Files are merged left to right: where several set an option, the last file wins. The command line
  wins over files; there, the last of several values wins. Within one file, setting an option twice
  is an error.
* A file holds `[section]` lines and `key = value` lines. `#` and `;` start a comment at the
  beginning of a line or after white space. On the command line the same option is
  `--section.key value` or `--section.key=value`. `-` and `_` mean the same in names.
* Text is taken as it stands, up to the comment. In double quotes, `\n`, `\t`, `\r`, `\"`, `\\` and
  `\xHH` are escapes, and `#`, `;` and blanks at the ends are kept. Lists are separated by commas;
  `[` `]` around them are optional; an element with a comma goes in quotes.
* bool: true, yes, on, 1, or false, no, off, 0. On the command line, a bool without a value is true.
* Unknown sections and options are errors, and so are values out of range; the message names file
  and line.
* `--print-config` shows every option with the value in effect, marks what differs from the default
  and what was derived, and is itself a valid file. Every checkpoint holds this text.

Names are GPT-NeoX's where it has the option, so that its files can be translated by eye. Old names
of GPT-NeoX are accepted and reported.

Where a default such as 0 stands for another value, the table says which: "`0`: seq_length".
)";

constexpr const char* kBatchSizes = R"(
D, the data-parallel size, is the number of ranks / (pipe_parallel_size x model_parallel_size), and
train_batch_size = train_micro_batch_size_per_gpu x gradient_accumulation_steps x D. Any two give
the third; three must agree; with only one, gradient_accumulation_steps is 1.

With rampup_batch_size = start, increment, samples, a step's batch depends on the samples consumed
before it, c, and on nothing else: n = (train_batch_size - start) / increment steps lead to
train_batch_size, and the batch is start + increment x floor(c n / samples) until then. Each of
these sizes must be a multiple of train_micro_batch_size_per_gpu x D. train_iters counts steps of
any size, and the learning rate follows the steps, as in GPT-NeoX, not the samples.
)";

constexpr const char* kLayout = R"(
The number of ranks is pipe_parallel_size x model_parallel_size x D; D, the data-parallel size,
follows from the number of ranks that are started. The layout does not change the training run, only
the rounding of sums.
)";

// '|' would end the table cell.
std::string cell(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '|') out += '\\';
    out += c;
  }
  return out;
}

std::string default_cell(const Option& option) {
  if (option.required) return "required";
  const std::string value = default_text(option);
  const std::string code = value.empty() ? "" : fmt::format("`{}`", value);
  if (option.default_means.empty()) return value.empty() ? "none" : code;
  return fmt::format("{}{}{}", code, value.empty() ? "" : ": ", option.default_means);
}

std::string meaning_cell(const Option& option) {
  std::string text(option.doc);
  Range range = option.range;
  // Upper ends far beyond any use only keep products of sizes inside 64 bits: no news for a reader.
  if (range.max >= 1e4) range.max = std::numeric_limits<double>::infinity();
  if (!range.text().empty()) text += "; " + range.text();
  if (option.list_size != 0) text += fmt::format("; {} values", option.list_size);
  if (!option.aliases.empty()) {
    std::string names(option.aliases);
    for (std::size_t i = 0; (i = names.find(' ', i)) != std::string::npos; i += 4) {
      names.replace(i, 1, "`, `");
    }
    text += fmt::format(". Old names: `{}`", names);
  }
  return cell(text);
}

std::string choices_list(const Option& option) {
  std::string text = fmt::format("\n`{}` is one of\n\n", option.name);
  for (const Choice& choice : option.choices) {
    text += fmt::format("* `{}`", choice.word);
    if (!choice.doc.empty()) text += fmt::format(": {}", choice.doc);
    if (!choice.aliases.empty()) {
      text += fmt::format(" (also written {})", choice.aliases);
    }
    text += "\n";
  }
  return text;
}

}  // namespace

std::string render_config_markdown() {
  std::string text = kIntroduction;
  for (const Section& section : sections()) {
    text += fmt::format("\n## [{}]\n\n{}.\n\n", section.name, section.doc);
    text += "| option | type | default | unit | meaning |\n|---|---|---|---|---|\n";
    std::string choices;
    for (const Option& option : options()) {
      if (option.section != section.name) continue;
      text += fmt::format("| `{}` | {} | {} | {} | {} |\n", option.name, type_text(option),
                          default_cell(option), option.unit, meaning_cell(option));
      // The initialisation rules are listed once, for both options that take them.
      if (!option.choices.empty() && option.name != "output_layer_init_method") {
        choices += choices_list(option);
      }
    }
    text += choices;
    if (section.name == "parallel") text += kLayout;
    if (section.name == "batch") text += kBatchSizes;
  }
  return text;
}

}  // namespace neox
