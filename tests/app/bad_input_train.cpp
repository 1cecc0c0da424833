// Mistakes with neox_train: configuration, token files, tokenizer.

#include "tests/app/bad_input.h"
#include "tests/app/program_runner.h"

namespace neox::testing {
namespace {

const std::string kTrain = "neox_train --config tiny.ini ";
// A new run, so that only the named mistake is in the way.
const std::string kFresh = kTrain + "--checkpoint.save new --data.data_path data/text_document ";

std::string append(const std::string& text) {
  return "printf '" + text + "' >> tiny.ini";
}
std::string overwrite(const std::string& file, int offset, const std::string& bytes) {
  return "printf '" + bytes + "' | dd of=" + file + " bs=1 seek=" + std::to_string(offset) +
         " conv=notrunc status=none";
}

const std::string kIdx = "data/text_document.idx", kBin = "data/text_document.bin";

}  // namespace

std::vector<BadInput> bad_configurations() {
  return {
      {"MissingFile", "", "neox_train --config none.ini", {"none.ini", "no such file"}},
      {"Directory", "", "neox_train --config data", {"data", "is a directory"}},
      {"BinaryFile", "", "neox_train --config run/step0000000004.h5", {"run/step0000000004.h5"}},
      {"EmptyFile",
       ": > empty.ini",
       "neox_train --config empty.ini",
       {"model.num_layers", "model.hidden_size", "train.train_iters", "is required"},
       5},
      {"NoFile", "", "neox_train ", {"--config FILE"}},
      {"UnknownKey",
       append("[optimizer]\\nlearning_rat = 1\\n"),
       kTrain,
       {"tiny.ini:", "learning_rat"}},
      {"MisspeltKey", append("[train]\\nevel_iters = 1\\n"), kTrain, {"tiny.ini:", "eval_iters"}},
      {"UnknownSection", append("[optimiser]\\nlr = 1\\n"), kTrain, {"tiny.ini:", "optimizer"}},
      {"KeyOfAnotherSection",
       append("[model]\\nlr = 0.1\\n"),
       kTrain,
       {"tiny.ini:", "model.lr", "[optimizer]"}},
      {"LineWithoutEquals", append("[data]\\nprefetch 3\\n"), kTrain, {"tiny.ini:", "prefetch 3"}},
      {"KeyBeforeSections",
       "printf 'seed = 1\\n' | cat - tiny.ini > other.ini",
       "neox_train --config other.ini",
       {"other.ini:1", "seed"}},
      {"SetTwice",
       append("[model]\\nnum_layers = 3\\n"),
       kTrain,
       {"tiny.ini:", "model.num_layers", "second time"}},
      {"NotANumber", "", kTrain + "--optimizer.lr 3e-4x", {"optimizer.lr", "3e-4x"}},
      {"NotWhole", "", kTrain + "--train.train_iters 10.5", {"train.train_iters", "10.5"}},
      {"Negative", "", kTrain + "--model.hidden_size -32", {"model.hidden_size", "-32"}},
      {"BeyondIntegers",
       "",
       kTrain + "--train.train_iters 99999999999999999999",
       {"train.train_iters", "99999999999999999999"}},
      {"NotFinite", "", kTrain + "--optimizer.lr nan", {"optimizer.lr", "nan"}},
      {"NotATruthValue", "", kTrain + "--model.gpt_j_residual=maybe", {"gpt_j_residual", "maybe"}},
      {"UnknownWord", "", kTrain + "--precision.precision fp8", {"precision.precision", "fp8"}},
      {"OneOfTwoValues", "", kTrain + "--optimizer.betas 0.9", {"optimizer.betas"}},
      {"UnknownOption", "", kTrain + "--lr 1", {"--lr", "--optimizer.lr"}},
      {"OptionWithoutValue", "", kTrain + "--optimizer.lr", {"--optimizer.lr", "needs a value"}},
      {"FreeArgument", "", "neox_train tiny.ini", {"'tiny.ini'", "--config tiny.ini"}},
      {"TwoMistakes",
       "",
       kTrain + "--model.rotary_pct 2 --model.norm batchnorm",
       {"model.rotary_pct", "model.norm", "batchnorm"},
       2},
      {"HeadsDoNotDivide",
       "",
       kTrain + "--model.num_attention_heads 5",
       {"model.hidden_size = 32 (tiny.ini:", "model.num_attention_heads = 5 (command line)"}},
      {"KeyValueHeadsDoNotDivide",
       "",
       kTrain + "--model.num_kv_heads 3",
       {"model.num_kv_heads = 3", "model.num_attention_heads = 4"}},
      {"ContextTooShort",
       "",
       kTrain + "--model.max_position_embeddings 16",
       {"model.max_position_embeddings = 16", "model.seq_length = 32"}},
      {"LowestRateAboveHighest",
       "",
       kTrain + "--schedule.min_lr 1",
       {"schedule.min_lr = 1", "optimizer.lr = 0.01"}},
      {"LossScaleWithoutFp16",
       "",
       kTrain + "--precision.loss_scale 128",
       {"precision.loss_scale = 128", "precision.precision = fp16"}},
      {"TensorParallel",
       "",
       kTrain + "--parallel.model_parallel_size 2",
       {"parallel.model_parallel_size = 2"}},
      {"PipelineParallel",
       "",
       kTrain + "--parallel.pipe_parallel_size 2",
       {"parallel.pipe_parallel_size = 2"}},
      {"BatchSizesDisagree",
       "",
       kTrain + "--batch.gradient_accumulation_steps 3",
       {"batch.train_batch_size = 8", "batch.gradient_accumulation_steps = 3", "leave one"}},
      {"BatchNotDivisible",
       "",
       kTrain + "--batch.train_batch_size 9",
       {"batch.train_batch_size = 9", "10 or 8"}},
      {"NoBatchSize",
       "",
       kTrain + "--batch.train_batch_size 0 --batch.train_micro_batch_size_per_gpu 0",
       {"batch.train_batch_size", "give two"}},
      {"HugeBatch",
       "",
       kFresh + "--batch.train_batch_size 9223372036854775806",
       {"batch.train_batch_size", "9223372036854775806", "at most"}},
      {"HugeBatchProduct",
       "",
       kFresh +
           "--batch.train_batch_size 0 --batch.gradient_accumulation_steps 4611686018427387904",
       {"batch.gradient_accumulation_steps", "4611686018427387904", "at most"}},
      {"HugeModel",
       "",
       kFresh + "--model.hidden_size 4000000000000",
       {"model.hidden_size", "at most"}},
      {"EndlessRun", "", kFresh + "--train.train_iters 9000000000000000000", {"train.train_iters"}},
      {"SpacingIsNoRatio",
       "",
       kTrain + "--checkpoint.checkpoint_scale log --checkpoint.checkpoint_factor 1",
       {"checkpoint.checkpoint_factor = 1", "ratio"}},
      {"FinetuneOfNothing", "", kTrain + "--checkpoint.finetune", {"checkpoint.finetune"}},
  };
}

std::vector<BadInput> bad_data() {
  const std::string lists =
      "--data.data_path '' --data.train_data_paths data/text_document,data/text_document "
      "--data.valid_data_paths data/text_document --data.test_data_paths data/text_document ";
  return {
      {"MissingFiles", "", kFresh + "--data.data_path data/none", {"data/none.bin", "preprocess"}},
      {"MissingBin", "rm " + kBin, kFresh, {kBin}},
      {"MissingIdx", "rm " + kIdx, kFresh, {kIdx, kBin}},
      {"PathWithEnding", "", kFresh + "--data.data_path " + kBin, {kBin, "without the ending"}},
      {"TruncatedIdx", "truncate -s -5 " + kIdx, kFresh, {kIdx, "truncated"}},
      {"TruncatedHeader", "truncate -s 20 " + kIdx, kFresh, {kIdx, "20 bytes", "truncated"}},
      {"EmptyIdx", ": > " + kIdx, kFresh, {kIdx}},
      {"TruncatedBin", "truncate -s -2 " + kBin, kFresh, {kBin, "truncated"}},
      {"EmptyBin", ": > " + kBin, kFresh, {kBin}},
      {"LongerBin", "printf ab >> " + kBin, kFresh, {kBin, "don't belong together"}},
      {"BinIsADirectory", "rm " + kBin + "; mkdir " + kBin, kFresh, {kBin, "directory"}},
      {"WrongMagic", overwrite(kIdx, 0, "X"), kFresh, {kIdx, "MMIDIDX"}},
      {"WrongVersion", overwrite(kIdx, 9, "\\x07"), kFresh, {kIdx, "version 7"}},
      {"WrongElementCode", overwrite(kIdx, 17, "\\x63"), kFresh, {kIdx, "code 99"}},
      {"FloatElements", overwrite(kIdx, 17, "\\x06"), kFresh, {kIdx, "floating-point"}},
      {"DamagedOffsets", overwrite(kIdx, 300, "\\xff\\xff\\xff\\xff"), kFresh, {kIdx, "damaged"}},
      {"TokenBeyondVocabulary",
       overwrite(kBin, 2000, "\\x00\\x02"),
       kFresh,
       {kBin, "token 512", "vocabulary has 512", "position"}},
      {"NoDocuments",
       "printf 'MMIDIDX\\0\\0\\1\\0\\0\\0\\0\\0\\0\\0\\10\\0\\0\\0\\0\\0\\0\\0\\0\\1\\0\\0\\0\\0"
       "\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0' > data/none.idx; : > data/none.bin",
       kFresh + "--data.data_path data/none",
       {"data/none", "documents"}},
      {"NoTrainingPart", "", kFresh + "--data.split 0,100,0", {"0,100,0", "data/text_document"}},
      {"NoValidationPart", "", kFresh + "--data.split 100,0,0", {"100,0,0", "valid"}},
      {"SplitIsNoList", "", kFresh + "--data.split 90,x,0", {"90,x,0"}},
      {"CorpusShorterThanASample",
       "",
       kFresh + "--model.seq_length 100000",
       {"data/text_document", "too few", "seq_length"}},
      {"WeightsDoNotMatchPaths",
       "",
       kFresh + lists + "--data.train_data_weights 1,2,3",
       {"data.train_data_weights", "3 weights for 2 paths"}},
      {"NegativeWeight",
       "",
       kFresh + lists + "--data.train_data_weights 1,-2",
       {"data.train_data_weights", "-2"}},
      {"NoValidationPaths",
       "",
       kFresh + "--data.data_path '' --data.train_data_paths data/text_document",
       {"data.valid_data_paths"}},
      {"PathAndLists",
       "",
       kFresh + lists + "--data.data_path data/text_document",
       {"data.data_path"}},
      {"NoData", "", kFresh + "--data.data_path ''", {"data.data_path"}},
  };
}

std::vector<BadInput> bad_tokenizers() {
  const std::string fresh = kFresh + "--tokenizer.tokenizer_type HFTokenizer ";
  const std::string gpt2 = kFresh + "--tokenizer.tokenizer_type GPT2BPETokenizer ";
  return {
      {"MissingFile", "", fresh + "--tokenizer.vocab_file none.json", {"none.json"}},
      {"Directory", "", fresh + "--tokenizer.vocab_file data", {"data", "directory"}},
      {"EmptyFile", ": > e.json", fresh + "--tokenizer.vocab_file e.json", {"e.json"}},
      {"NotJson", "", fresh + "--tokenizer.vocab_file notes.txt", {"notes.txt", "JSON"}},
      {"CutOff",
       "truncate -s 1000 tokenizer.json",
       fresh + "--tokenizer.vocab_file tokenizer.json",
       {"tokenizer.json", "JSON"}},
      {"OtherJson",
       "echo '{\"a\": 1}' > o.json",
       fresh + "--tokenizer.vocab_file o.json",
       {"o.json", "model"}},
      {"OtherModel",
       "sed -i 's/\"BPE\"/\"Unigram\"/' tokenizer.json",
       fresh + "--tokenizer.vocab_file tokenizer.json",
       {"tokenizer.json", "Unigram"}},
      {"MissingMerges",
       "echo '{\"a\": 0}' > v.json",
       gpt2 + "--tokenizer.vocab_file v.json --tokenizer.merge_file none.txt",
       {"none.txt"}},
      {"NoMergeFile", "", gpt2 + "--tokenizer.vocab_file tokenizer.json", {"merge_file"}},
      {"VocabularyIsNoObject",
       "echo '[1]' > v.json; echo 'a b' > m.txt",
       gpt2 + "--tokenizer.vocab_file v.json --tokenizer.merge_file m.txt",
       {"v.json"}},
      {"LargerThanTheModel",
       "",
       kFresh + "--model.vocab_size 100",
       {"512 tokens", "model.vocab_size is 100"}},
      {"NoTokenizer", "", fresh, {"tokenizer.vocab_file", "model.vocab_size"}},
      {"UnknownType", "", kFresh + "--tokenizer.tokenizer_type SPM", {"tokenizer_type", "SPM"}},
  };
}

std::vector<BadInput> bad_jobs() {
  const auto two = [](const std::string& command) { return mpirun(2, command); };
  return {
      {"MissingConfiguration", "", two("neox_train --config none.ini"), {"none.ini"}},
      {"UnknownKey", append("[data]\\nx = 1\\n"), two(kTrain), {"tiny.ini:", "data.x"}},
      {"TwoMistakes", "", two(kTrain + "--model.rotary_pct 2 --model.norm x"), {"model.norm"}, 2},
      {"BatchNotDivisible",
       "",
       two(kTrain + "--batch.train_batch_size 6"),
       {"batch.train_batch_size = 6", "2 data-parallel ranks"}},
      {"TruncatedIdx", "truncate -s -5 " + kIdx, two(kFresh), {kIdx, "truncated"}},
      {"MissingTokenizer",
       "",
       two(kFresh + "--tokenizer.tokenizer_type HFTokenizer --tokenizer.vocab_file none.json"),
       {"none.json"}},
      {"LoadNamesNothing", "", two(kFresh + "--checkpoint.load none"), {"checkpoint.load = none"}},
      {"OtherModel", "", two(kTrain + "--model.num_layers 3"), {"num_layers"}},
      {"DamagedCheckpoints",
       "for f in run/step*.h5; do truncate -s -100 $f; done",
       two(kTrain),
       {"run", "damaged"}},
      {"SaveBelowAFile", "", two(kFresh + "--checkpoint.save notes.txt/run"), {"notes.txt/run"}},
      {"LogBelowAFile", "", two(kFresh + "--logging.log_dir notes.txt/log"), {"notes.txt/log"}},
      {"GenerateOnTwoRanks", "", two("neox_generate --checkpoint.load run"), {"one rank"}},
      {"DifferentConfigurations",
       "printf '#!/bin/bash\\nexec neox_train --config tiny.ini --optimizer.lr "
       "0.00$((OMPI_COMM_WORLD_RANK + 1))\\n' > start.sh",
       two("bash start.sh # neox_train "),
       {"lr", "start all ranks with the same command"}},
  };
}

}  // namespace neox::testing
