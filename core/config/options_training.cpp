// The options of [parallel], [precision], [batch], [optimizer], [schedule], [train], [guards] and
// [system].
#include "core/config/field.h"

namespace neox {

using namespace detail;

namespace {

constexpr Choice kPrecisions[] = {
    {"fp32", "float32 throughout", "float32 f32 float"},
    {"bfloat16", "matrix products and activations in bfloat16", "bf16"},
    {"fp16", "the same in float16, with loss scaling", "float16 f16 half"}};

constexpr Choice kSchedules[] = {
    {"gpipe", "all forward passes, then all backward passes"},
    {"1f1b", "one forward, one backward: fewest activations in memory"},
    {"interleaved",
     "1f1b over virtual_pipeline_size chunks per stage: less idle time, more messages"},
    {"zb-h1", "1f1b whose weight gradients fill the idle time at the end"}};

constexpr Choice kReduceTypes[] = {
    {"fp32", "sums of float32", "float32 f32"},
    {"bf16", "half the traffic, with rounding that depends on the number of ranks", "bfloat16"},
    {"fp16", "the same in float16; with precision = fp16 only", "float16 f16 half"}};

constexpr Choice kRecompute[] = {
    {"none", "keep every activation that backward needs"},
    {"selective", "compute outputs of norms and activation functions again, which is cheap"},
    {"full", "keep only each layer's input and run its forward pass again in backward"},
    {"first_n", "full in the first recompute_layers layers of each stage and chunk"}};

constexpr Choice kOptimizers[] = {
    {"adam", "Adam with decoupled weight decay, which is what GPT-NeoX's adam is", "adamw"},
    {"lion", "sign of a running mean; GPT-NeoX's betas for it are 0.9, 0.99"},
    {"sgd", "gradient descent with momentum; weight_decay is an L2 term"},
    {"madgrad_wd", "MADGRAD with decoupled weight decay; GPT-NeoX's eps for it is 1e-6", "madgrad"},
    {"lamb", "Adam's update scaled, tensor by tensor, to the size of the weights", "fusedlamb"},
    {"sm3", "largest sums of squares by row and column; GPT-NeoX's eps is 1e-30, momentum 0"}};

constexpr Choice kDecays[] = {
    {"constant", "lr after the warm-up"},
    {"linear", "straight to 0 at the end of the decay length, not below min_lr"},
    {"cosine", "half a cosine from lr to min_lr"},
    {"exponential", "lr exp(-0.693 progress), not below min_lr"},
    {"inverse_sqrt", "lr sqrt(warm-up steps / steps), not below min_lr",
     "inverse-square-root inverse_square_root"},
    {"wsd", "warm-up, stable at lr, then down to min_lr over the last wsd_decay_fraction"}};

constexpr Choice kSpikeActions[] = {
    {"warn", "say so, and train on it"},
    {"skip", "the step changes nothing; the next one takes new samples"},
    {"rewind",
     "go back to the newest checkpoint, and leave out the samples from there to the spike"}};

constexpr Choice kDevices[] = {
    {"auto", "cuda where this machine can, else cpu"},
    {"cpu", "the CPU engine"},
    {"cuda", "one NVIDIA GPU per rank, in the order of the ranks on a node", "gpu"},
    {"simulated", "the CUDA kernels run on the host, thread by thread: very slow, for tests"}};

constexpr Choice kGraphs[] = {
    {"auto", "where that is possible: on a GPU, without tensor parallelism"},
    {"on", "or fail"},
    {"off", "every kernel is queued by itself"}};

constexpr Choice kTransports[] = {
    {"auto", "nccl where every rank has it and a GPU of its own, else mpi"},
    {"nccl", "NCCL between GPUs"},
    {"mpi", "MPI through host memory: any number of ranks may share a GPU"}};

}  // namespace

std::vector<Option> parallel_options() {
  return {
      {.name = "pipe_parallel_size",
       .field = at<&ParallelConfig::pipe_parallel_size>(),
       .doc = "Pipeline stages; 0 means 1",
       .unit = "ranks",
       .range = count(0, 1e6)},
      {.name = "model_parallel_size",
       .field = at<&ParallelConfig::model_parallel_size>(),
       .doc = "Tensor-parallel ranks: each layer's matrices are divided among them",
       .unit = "ranks",
       .range = count(1, 1e6)},
      {.name = "sequence_parallel",
       .field = at<&ParallelConfig::sequence_parallel>(),
       .doc = "Divide tokens among tensor-parallel ranks outside matrix products: less memory"},
      {.name = "pipeline_schedule",
       .field = at<&ParallelConfig::pipeline_schedule>(),
       .doc = "Order of the micro-batches' passes in the pipeline stages",
       .choices = kSchedules},
      {.name = "virtual_pipeline_size",
       .field = at<&ParallelConfig::virtual_pipeline_size>(),
       .doc = "Chunks of layers per pipeline stage, with pipeline_schedule = interleaved",
       .range = count(1, 1e5)},
      {.name = "zero_stage",
       .field = at<&ParallelConfig::zero_stage>(),
       .doc =
           "Divided among data-parallel ranks: 1 optimizer state, 2 gradients too, 3 weights too",
       .range = count(0, 3)},
      {.name = "gradient_bucket_mb",
       .field = at<&ParallelConfig::gradient_bucket_mb>(),
       .doc = "Gradients reduced between data-parallel ranks in one message",
       .unit = "MiB",
       .range = {.min = 0, .max = 65536, .above_min = true}},
      {.name = "gradient_reduce_dtype",
       .field = enum_at<&ParallelConfig::gradient_reduce_dtype, kReduceTypes>(),
       .doc = "Type in which gradients travel between data-parallel ranks",
       .choices = kReduceTypes},
      {.name = "recompute",
       .field = at<&ParallelConfig::recompute>(),
       .doc = "Activations that backward computes again instead of keeping them",
       .choices = kRecompute},
      {.name = "recompute_layers",
       .field = at<&ParallelConfig::recompute_layers>(),
       .doc = "Layers of each stage and chunk that recompute = first_n computes again",
       .unit = "layers",
       .range = count(0, 1e5)},
      {.name = "checkpoint_activations",
       .field = at<&ParallelConfig::checkpoint_activations>(),
       .doc = "GPT-NeoX's way to write recompute = full"},
      {.name = "replica_check_interval",
       .field = at<&ParallelConfig::replica_check_interval>(),
       .doc = "Compare the copies of replicated parameters every so many steps; 0: off",
       .unit = "steps",
       .range = count(0, 1e12)},
  };
}

std::vector<Option> precision_options() {
  return {
      {.name = "precision",
       .field = enum_at<&PrecisionConfig::precision, kPrecisions>(),
       .doc = "Compute type; main weights, gradients and optimizer state are float32 in any case",
       .choices = kPrecisions},
      {.name = "allow_tf32",
       .field = at<&PrecisionConfig::allow_tf32>(),
       .doc =
           "On GPUs round the inputs of float32 products to TF32 (10 bits), which is much faster"},
      {.name = "loss_scale",
       .field = at<&PrecisionConfig::loss_scale>(),
       .doc = "With fp16: factor of the loss in backward; 0: dynamic, by the options below",
       .range = {.min = 0, .max = kMaxLossScale}},
      {.name = "initial_scale_power",
       .field = at<&PrecisionConfig::initial_scale_power>(),
       .doc = "With fp16: the dynamic loss scale starts at 2 to this power",
       .range = count(0, 64)},
      {.name = "loss_scale_window",
       .field = at<&PrecisionConfig::loss_scale_window>(),
       .doc = "With fp16: the loss scale doubles after so many steps without an overflow",
       .unit = "steps",
       .range = count(1)},
      {.name = "hysteresis",
       .field = at<&PrecisionConfig::hysteresis>(),
       .doc = "With fp16: overflows it takes to halve the loss scale; each one after them halves "
              "it, too",
       .range = count(1, 1e6)},
      {.name = "consecutive_hysteresis",
       .field = at<&PrecisionConfig::consecutive_hysteresis>(),
       .doc = "With fp16: hysteresis counts overflows in a row, not all until the scale doubles"},
      {.name = "min_loss_scale",
       .field = at<&PrecisionConfig::min_loss_scale>(),
       .doc = "With fp16: smallest dynamic loss scale; when it has to shrink further the run ends",
       .range = {.min = 0, .max = kMaxLossScale, .above_min = true}},
  };
}

std::vector<Option> batch_options() {
  return {
      {.name = "train_batch_size",
       .field = at<&BatchConfig::train_batch_size>(),
       .doc = "Samples per optimizer step, over all ranks",
       .unit = "samples",
       .default_means = "micro-batch x accumulation steps x data-parallel size",
       .range = count(0)},
      {.name = "train_micro_batch_size_per_gpu",
       .field = at<&BatchConfig::train_micro_batch_size_per_gpu>(),
       .doc = "Samples per rank in one forward and backward pass",
       .unit = "samples",
       .default_means = "from the other two",
       .range = count(0, 1e6),
       .aliases = "batch_size"},
      {.name = "gradient_accumulation_steps",
       .field = at<&BatchConfig::gradient_accumulation_steps>(),
       .doc = "Micro-batches per rank in one optimizer step",
       .default_means = "from the other two; 1 when only one of them is given",
       .range = count(0, 1e6),
       .aliases = "gas"},
      {.name = "rampup_batch_size",
       .field = at<&BatchConfig::rampup_batch_size>(),
       .doc =
           "Start, increment, samples: how the batch grows to train_batch_size (none: no growth)",
       .unit = "samples",
       .range = count(1, 1e12),
       .list_size = 3},
  };
}

std::vector<Option> optimizer_options() {
  return {
      {.name = "type",
       .field = at<&OptimizerConfig::type>(),
       .doc = "Optimizer",
       .choices = kOptimizers},
      {.name = "lr",
       .field = at<&OptimizerConfig::lr>(),
       .doc = "Peak learning rate",
       .range = kPositive},
      {.name = "betas",
       .field = at<&OptimizerConfig::betas>(),
       .doc = "Decay of adam's, lamb's and lion's running means of the gradient and of its square",
       .range = {.min = 0, .max = 1, .below_max = true},
       .list_size = 2},
      {.name = "eps",
       .field = at<&OptimizerConfig::eps>(),
       .doc = "Added to the root of the running square (adam, lamb) or sum (madgrad_wd), or under "
              "it (sm3)",
       .range = kPositive},
      {.name = "weight_decay",
       .field = at<&OptimizerConfig::weight_decay>(),
       .doc = "Decoupled decay of weight matrices; biases and norms are not decayed",
       .range = kNotNegative},
      {.name = "adam_w_mode",
       .field = at<&OptimizerConfig::adam_w_mode>(),
       .doc = "false: adam adds weight_decay to the gradient (L2) instead of decaying the weights"},
      {.name = "momentum",
       .field = at<&OptimizerConfig::momentum>(),
       .doc = "Momentum of sgd, madgrad_wd and sm3; 0: none, and no memory for it",
       .range = {.min = 0, .max = 1, .below_max = true}},
      {.name = "nesterov",
       .field = at<&OptimizerConfig::nesterov>(),
       .doc = "sgd looks ahead by the momentum"},
      {.name = "max_coeff",
       .field = at<&OptimizerConfig::max_coeff>(),
       .doc = "Largest ratio of a tensor's norm to its update's that lamb scales by",
       .range = kPositive},
      {.name = "min_coeff",
       .field = at<&OptimizerConfig::min_coeff>(),
       .doc = "Smallest such ratio",
       .range = kNotNegative},
      {.name = "sm3_beta",
       .field = at<&OptimizerConfig::sm3_beta>(),
       .doc = "Decay of sm3's running squares; 0: they are sums",
       .range = {.min = 0, .max = 1, .below_max = true}},
      {.name = "gradient_clipping",
       .field = at<&OptimizerConfig::gradient_clipping>(),
       .doc = "Largest L2 norm of the whole gradient; 0 turns clipping off",
       .range = kNotNegative,
       .aliases = "clip_grad"},
  };
}

std::vector<Option> schedule_options() {
  return {
      {.name = "lr_decay_style",
       .field = at<&ScheduleConfig::lr_decay_style>(),
       .doc = "How the learning rate falls after the warm-up",
       .choices = kDecays},
      {.name = "lr_decay_iters",
       .field = at<&ScheduleConfig::lr_decay_iters>(),
       .doc = "Length of the schedule; the rate stays at its last value afterwards",
       .unit = "steps",
       .default_means = "lr_decay_fraction of train_iters",
       .range = count(0, 1e12)},
      {.name = "lr_decay_fraction",
       .field = at<&ScheduleConfig::lr_decay_fraction>(),
       .doc = "Length of the schedule as a fraction of train_iters",
       .range = {.min = 0, .max = 1, .above_min = true}},
      {.name = "min_lr",
       .field = at<&ScheduleConfig::min_lr>(),
       .doc = "Lowest learning rate after the warm-up",
       .range = kNotNegative},
      {.name = "warmup",
       .field = at<&ScheduleConfig::warmup>(),
       .doc = "Linear warm-up, as a fraction of the schedule's length",
       .range = kFraction},
      {.name = "wsd_decay_fraction",
       .field = at<&ScheduleConfig::wsd_decay_fraction>(),
       .doc = "Share of the schedule over which wsd cools down",
       .range = {.min = 0, .max = 1, .above_min = true}},
  };
}

std::vector<Option> train_options() {
  return {
      {.name = "train_iters",
       .field = at<&TrainConfig::train_iters>(),
       .doc = "Optimizer steps of the run",
       .unit = "steps",
       .range = count(1, 1e12),
       .required = true},
      {.name = "eval_interval",
       .field = at<&TrainConfig::eval_interval>(),
       .doc = "Steps between validations; 0 turns validation off",
       .unit = "steps",
       .range = count(0, 1e12)},
      {.name = "eval_iters",
       .field = at<&TrainConfig::eval_iters>(),
       .doc = "Global batches per validation",
       .unit = "batches",
       .range = count(1)},
      {.name = "exit_interval",
       .field = at<&TrainConfig::exit_interval>(),
       .doc = "Save and leave the program every so many steps; 0: off",
       .unit = "steps",
       .range = count(0, 1e12)},
      {.name = "job_end",
       .field = at<&TrainConfig::job_end>(),
       .doc =
           "UNIX time at which the job ends: the run saves and leaves before; -1: it does not end",
       .unit = "seconds",
       .default_means = "what SLURM says (SLURM_JOB_END_TIME)",
       .range = count(-1, 1e12)},
      {.name = "exit_margin",
       .field = at<&TrainConfig::exit_margin>(),
       .doc = "Time left to the job's end when the run has left; at most a quarter of the job",
       .unit = "seconds",
       .range = kNotNegative},
      {.name = "seed",
       .field = at<&TrainConfig::seed>(),
       .doc = "Origin of everything random: weights, order of the data, dropout",
       .range = count(0, 4294967295.0)},
      {.name = "seed_init",
       .field = at<&TrainConfig::seed_init>(),
       .doc = "Seed of the initial weights alone",
       .default_means = "seed",
       .range = count(-1, 4294967295.0)},
      {.name = "seed_data",
       .field = at<&TrainConfig::seed_data>(),
       .doc = "Seed of the order of the data alone",
       .default_means = "seed",
       .range = count(-1, 4294967295.0)},
      {.name = "seed_dropout",
       .field = at<&TrainConfig::seed_dropout>(),
       .doc = "Seed of dropout alone",
       .default_means = "seed",
       .range = count(-1, 4294967295.0)},
      {.name = "deterministic",
       .field = at<&TrainConfig::deterministic>(),
       .doc = "Bit-identical results from run to run"},
      {.name = "cross_entropy_chunk",
       .field = at<&TrainConfig::cross_entropy_chunk>(),
       .doc = "Tokens whose logits are in memory at once",
       .unit = "tokens",
       .range = count(1)},
      {.name = "watchdog_timeout",
       .field = at<&TrainConfig::watchdog_timeout>(),
       .doc = "End the job, naming the rank, when one makes no progress for so long; 0: off",
       .unit = "seconds",
       .range = kNotNegative},
  };
}

std::vector<Option> guards_options() {
  return {
      {.name = "spike_window",
       .field = at<&GuardsConfig::spike_window>(),
       .doc =
           "Latest steps whose mean and deviation a step is compared with, once there are so many",
       .unit = "steps",
       .range = count(2, 1e5)},
      {.name = "loss_z",
       .field = at<&GuardsConfig::loss_z>(),
       .doc = "A step whose loss is so far above the window's mean is a spike; 0: off",
       .unit = "standard deviations",
       .range = kNotNegative},
      {.name = "grad_norm_z",
       .field = at<&GuardsConfig::grad_norm_z>(),
       .doc = "A step whose gradient norm is so far above the window's mean is a spike; 0: off",
       .unit = "standard deviations",
       .range = kNotNegative},
      {.name = "action",
       .field = at<&GuardsConfig::action>(),
       .doc = "What is done about a spike",
       .choices = kSpikeActions},
      {.name = "max_skipped_steps",
       .field = at<&GuardsConfig::max_skipped_steps>(),
       .doc = "End the run when so many steps in a row were skipped",
       .unit = "steps",
       .range = count(1)},
      {.name = "max_rewinds",
       .field = at<&GuardsConfig::max_rewinds>(),
       .doc = "End the run at a spike after so many rewinds",
       .range = count(0, 1000)},
  };
}

std::vector<Option> system_options() {
  return {
      {.name = "device",
       .field = at<&SystemConfig::device>(),
       .doc = "What computes",
       .choices = kDevices},
      {.name = "transport",
       .field = at<&SystemConfig::transport>(),
       .doc = "How tensors of devices travel between ranks; the CPU's always go by MPI",
       .choices = kTransports},
      {.name = "slow_node_threshold",
       .field = at<&SystemConfig::slow_node_threshold>(),
       .doc = "--preflight names ranks that are slower than the median by this part; 1: none",
       .unit = "fraction",
       .range = {.min = 0, .max = 1, .above_min = true}},
      {.name = "nccl_timeout",
       .field = at<&SystemConfig::nccl_timeout>(),
       .doc = "How long NCCL waits for the other ranks while a group is made and connected",
       .unit = "seconds",
       .range = {.min = 1, .max = 1e6}},
      {.name = "nccl_max_ctas",
       .field = at<&SystemConfig::nccl_max_ctas>(),
       .doc = "Most thread blocks of an NCCL operation: fewer leave more of the GPU to computation",
       .unit = "blocks",
       .default_means = "NCCL's choice",
       .range = count(0, 64)},
      {.name = "cuda_graphs",
       .field = at<&SystemConfig::cuda_graphs>(),
       .doc = "Record what a layer queues on its GPU once, and launch it by one call from then on",
       .choices = kGraphs},
  };
}

}  // namespace neox
