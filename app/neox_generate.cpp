// neox_generate: continues prompts with a trained model.

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "comm/mpi.h"
#include "core/base/log.h"
#include "core/config/parse.h"
#include "core/train/inference.h"
#include "core/train/program.h"
#include "core/train/sample_writer.h"

namespace {

using namespace neox;

Program describe_program() {
  Program program;
  program.name = "neox_generate";
  program.summary = "Continues prompts with a trained model.";
  program.usage =
      "neox_generate --checkpoint.load DIRECTORY|FILE.h5 [--generate.prompt TEXT | "
      "--generate.sample_input_file FILE | --generate.interactive] [--section.option VALUE ...]";
  program.sections = {"generate", "checkpoint", "tokenizer", "precision",
                      "train",    "system",     "logging"};
  return program;
}

// The prompts that don't come from the terminal, all of which the model takes.
std::vector<std::string> prompts_of(const GenerateConfig& g, const InferenceModel& model) {
  const std::string& file = g.sample_input_file;
  if (file.empty()) {
    model.check_prompt(g.prompt);
    return {g.prompt};
  }
  namespace fs = std::filesystem;
  std::error_code ignored;
  require(!fs::equivalent(file, g.sample_output_file, ignored),
          "generate.sample_output_file = {} would replace the prompts; write to another file",
          file);
  std::ifstream in(file);
  require(in.good() && !fs::is_directory(file, ignored),
          "cannot read the prompts in {} (generate.sample_input_file)", file);
  std::vector<std::string> prompts;
  std::int64_t line_number = 0;
  for (std::string line; std::getline(in, line);) {
    ++line_number;
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.empty()) continue;
    try {
      model.check_prompt(line);
    } catch (const Error& error) {
      fail("{}:{}: {}", file, line_number, error.what());
    }
    prompts.push_back(line);
  }
  require(!prompts.empty(), "{} (generate.sample_input_file) holds no prompts (one a line)", file);
  return prompts;
}

// Reads until the terminator; false at the end of input.
bool read_prompt(const std::string& terminator, std::string& prompt) {
  prompt.clear();
  std::fputs("prompt> ", stderr);
  for (char c = 0; std::cin.get(c);) {
    prompt += c;
    if (prompt.ends_with(terminator)) {
      prompt.resize(prompt.size() - terminator.size());
      return true;
    }
  }
  return !prompt.empty();
}

// Streams a sample to the terminal; the tokens' bytes go out as they come.
GeneratedSample stream_sample(InferenceModel& model, const std::string& prompt,
                              const GenerateConfig& g, std::uint64_t index) {
  std::fputs(prompt.c_str(), stdout);
  GeneratedSample sample = model.generate(prompt, g, index, [](std::string_view bytes) {
    std::fwrite(bytes.data(), 1, bytes.size(), stdout);
    std::fflush(stdout);
  });
  std::fputs("\n", stdout);
  return sample;
}

int generate(int argc, char** argv, MpiEnvironment& mpi, Watchdog&) {
  const ParsedCommand command = parse_command_line(argc, argv, describe_program());
  if (!command.answer.empty()) {
    std::fputs(command.answer.c_str(), stdout);
    return 0;
  }
  require(mpi.size() == 1, "neox_generate runs on one rank; it was started on {}", mpi.size());
  const GenerateConfig& g = command.config.generate;
  set_verbose_errors(command.config.logging.verbose);
  InferenceModel model(command.config, command.origins);
  std::uint64_t index = 0;
  if (g.interactive) {
    SampleWriter writer(g.sample_output_file);
    for (std::string prompt; read_prompt(g.prompt_end, prompt);) {
      if (!prompt.empty()) writer.write(stream_sample(model, prompt, g, index++));
    }
    return 0;
  }
  const std::vector<std::string> prompts = prompts_of(g, model);
  SampleWriter writer(g.sample_output_file);
  for (const std::string& prompt : prompts) {
    for (std::int64_t i = 0; i < g.num_samples; ++i) {
      if (index > 0) std::fputs("----\n", stdout);
      writer.write(stream_sample(model, prompt, g, index++));
    }
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return neox::run_mpi_program("neox_generate", argc, argv, generate);
}
