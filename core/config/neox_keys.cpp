#include "core/config/neox_keys.h"

namespace neox::detail {

const std::string_view kTranslatedKeys =
    "precision fp16 bf16 optimizer zero_optimization activation bias_gelu_fusion mlp_type "
    "intermediate_size expansion_factor mlp_multiple_of attention_config sparsity_config load norm "
    "use_bias_in_norms "
    "use_qk_layernorm";

namespace {

constexpr SameKeys kSame[] = {
    {"model",
     "num_layers hidden_size num_attention_heads num_kv_heads seq_length max_position_embeddings "
     "make_vocab_size_divisible_by layernorm_epsilon rms_norm_epsilon scalenorm_epsilon pos_emb "
     "rotary_pct rotary_emb_base sliding_window_width opt_pos_emb_offset no_weight_tying "
     "gpt_j_residual gpt_j_tied "
     "use_bias_in_attn_linear use_bias_in_mlp init_method output_layer_init_method "
     "init_method_std hidden_dropout attention_dropout"},
    {"parallel", "pipe_parallel_size model_parallel_size sequence_parallel checkpoint_activations"},
    {"batch",
     "train_batch_size train_micro_batch_size_per_gpu gradient_accumulation_steps "
     "gas=gradient_accumulation_steps batch_size=train_micro_batch_size_per_gpu"},
    {"optimizer", "weight_decay gradient_clipping clip_grad=gradient_clipping"},
    {"schedule", "lr_decay_style lr_decay_iters lr_decay_fraction min_lr warmup"},
    {"train", "train_iters eval_interval eval_iters exit_interval seed"},
    {"data",
     "data_path split train_data_paths valid_data_paths test_data_paths train_data_weights "
     "valid_data_weights test_data_weights weight_by_num_documents weighted_sampler_alpha "
     "eod_mask_loss mmap_warmup"},
    {"tokenizer", "tokenizer_type vocab_file merge_file"},
    {"checkpoint",
     "save checkpoint_scale checkpoint_factor save_interval=checkpoint_factor extra_save_iters "
     "keep_last_n_checkpoints no_save_optim no_load_optim finetune"},
    {"logging", "log_dir log_interval tensorboard_dir peak_theoretical_tflops profile"},
    {"generate",
     "temperature top_k top_p maximum_tokens num_samples recompute sample_input_file "
     "sample_output_file prompt_end"}};

constexpr std::string_view kFusion = "fusions are chosen by the engine";
constexpr std::string_view kRanks = "ranks come from mpirun or srun";
constexpr std::string_view kRecompute = "see parallel.recompute";
constexpr std::string_view kDerived = "GPT-NeoX derives it; it is not for configuration files";
constexpr std::string_view kUnread = "GPT-NeoX never reads it";
constexpr std::string_view kMoe = "mixtures of experts are not supported";
constexpr std::string_view kMup = "muP is not supported";
constexpr std::string_view kMupScale = "part of muP, which is not supported";
constexpr std::string_view kMamba = "Mamba is not supported";
constexpr std::string_view kRwkv = "RWKV is not supported";
constexpr std::string_view kEngine = "Transformer Engine is not used";
constexpr std::string_view kPostTraining = "only language modelling is trained";
constexpr std::string_view kLabels = "label, reward and pairwise data are not supported";
constexpr std::string_view kMonitor = "metrics go to JSON lines and TensorBoard files";
constexpr std::string_view kDeepSpeed = "a DeepSpeed setting without counterpart";
constexpr std::string_view kExact = "runs repeat exactly in any case";
constexpr std::string_view kOff = "false|0|null|{}|[]";
constexpr std::string_view kEnabledOff = "false|null|{}|disabled";
constexpr std::string_view kAny = "*";

constexpr AbsentKey kAbsent[] = {
    // model
    {"layernorm_fusion", kAny, kFusion},
    {"rmsnorm_fusion", kAny, kFusion},
    {"rope_fusion", kAny, kFusion},
    {"bias_dropout_fusion", kAny, kFusion},
    {"use_flashattn_swiglu", kAny, kFusion},
    {"scaled_upper_triang_masked_softmax_fusion", kAny, kFusion},
    {"scaled_masked_softmax_fusion", kAny, kFusion},
    {"fused_kernels_build_path", kAny, kFusion},
    {"rotary_save_freqs_buffer", kAny, "rotary tables are computed, not stored"},
    {"rpe_num_buckets", kAny, "only read with pos_emb = rpe"},
    {"rpe_max_distance", kAny, "only read with pos_emb = rpe"},
    {"sparsity", "none|null", "write the layers' kinds as attention_config"},
    {"attention_softmax_in_fp32", kAny, "softmax is computed in float32 in any case"},
    {"apply_query_key_layer_scaling", kAny,
     "it guards fp16 from overflow and does not change what is computed; softmax is in float32"},
    {"output_layer_parallelism", "column|null", "only column exists, as in GPT-NeoX"},
    {"use_cpu_initialization", kAny, "initial weights never depend on the layout"},
    {"num_unique_layers", kAny, "it has no effect in GPT-NeoX"},
    {"param_sharing_style", kAny, kUnread},
    {"gmlp_attn_dim", kAny, "only read with gMLP layers"},
    {"soft_prompt_tuning", kEnabledOff, "soft prompt tuning is not supported"},
    {"dim_att", "null", kRwkv},
    {"head_size", "null", kRwkv},
    {"ffn_dim", "null", kRwkv},
    {"mamba_selective_scan_fusion", kAny, kMamba},
    {"mamba_causal_conv_fusion", kAny, kMamba},
    {"mamba_inner_func_fusion", kAny, kMamba},
    {"mamba_selective_fp32_params", kAny, kMamba},
    {"mamba_use_bias_in_conv", kAny, kMamba},
    {"mamba_use_bias_in_linears", kAny, kMamba},
    {"moe_num_experts", "1|null", kMoe},
    {"moe_expert_interval", kAny, kMoe},
    {"moe_top_k", kAny, kMoe},
    {"moe_router_type", kAny, kMoe},
    {"moe_jitter_eps", kAny, kMoe},
    {"moe_lbl_in_fp32", kAny, kMoe},
    {"te_columnparallel", kAny, kEngine},
    {"te_rowparallel", kAny, kEngine},
    {"te_layernorm_mlp", kAny, kEngine},
    {"te_mha", kAny, kEngine},
    {"te_fp8_mha", kOff, "fp8 is not supported"},
    {"te_fp8_format", kAny, kEngine},
    {"te_fp8_wgrad", kAny, kEngine},
    {"te_fp8_amax_history_len", kAny, kEngine},
    {"te_fp8_amax_compute_algo", kAny, kEngine},
    {"te_fp8_margin", kAny, kEngine},
    {"use_mup", kOff, kMup},
    {"coord_check", kOff, kMup},
    {"save_base_shapes", kOff, kMup},
    {"base_shapes_file", kAny, kMupScale},
    {"mup_init_scale", kAny, kMupScale},
    {"mup_embedding_mult", kAny, kMupScale},
    {"mup_rp_embedding_mult", kAny, kMupScale},
    {"mup_width_scale", kAny, kMupScale},
    {"mup_attn_temp", kAny, kMupScale},
    {"mup_output_temp", kAny, kMupScale},
    // parallelism, precision, memory
    {"pipe_partition_method", kAny, "layers are divided so that all stages take equal time"},
    {"data_types", kAny, "gradients are accumulated in float32 in any case"},
    {"amp", kEnabledOff, "apex amp is not supported; write precision"},
    {"fp32_allreduce", kAny, "float32 is the default of parallel.gradient_reduce_dtype"},
    {"communication_data_type", kAny, "see parallel.gradient_reduce_dtype"},
    {"prescale_gradients", kAny, "gradients travel as sums of float32"},
    {"gradient_predivide_factor", kAny, "gradients travel as sums of float32"},
    {"sparse_gradients", kOff, "sparse gradients are not supported"},
    {"fp16_lm_cross_entropy", kAny, "the loss is computed in float32 in any case"},
    {"loss_scale", "null", "write it into the block fp16, where GPT-NeoX's own files have it"},
    {"hysteresis", kAny, kUnread},
    {"loss_scale_window", kAny, kUnread},
    {"min_scale", kAny, kUnread},
    {"checkpoint_num_layers", kAny, kRecompute},
    {"partition_activations", kAny, "see parallel.sequence_parallel"},
    {"contiguous_checkpointing", kAny, kRecompute},
    {"checkpoint_in_cpu", kAny, kRecompute},
    {"synchronize_each_layer", kAny, kRecompute},
    {"profile_backward", kAny, kRecompute},
    {"deepspeed_activation_checkpointing", kAny, kRecompute},
    {"distributed_backend", kAny, "see system.transport"},
    {"lazy_mpu_init", kAny, kDeepSpeed},
    {"onnx_safe", kAny, "gelu is exact in any case"},
    {"deepspeed_extra_args", kAny, kDeepSpeed},
    {"data_efficiency", kEnabledOff, "DeepSpeed's data efficiency library is not supported"},
    {"elasticity", kEnabledOff, "elastic training is not supported; checkpoints fit any layout"},
    {"compression_training", kEnabledOff, "compression is not supported"},
    {"sparse_attention", kEnabledOff, "block-sparse attention is not supported"},
    {"comms_logger", kAny, kDeepSpeed},
    {"autotuning", kAny, kDeepSpeed},
    {"flops_profiler", kAny, kDeepSpeed},
    {"activation_checkpointing", kAny, kRecompute},
    {"checkpoint", kAny, kDeepSpeed},
    {"deepscale", kAny, kUnread},
    {"deepscale_config", kAny, kUnread},
    {"dump_state", kAny, kUnread},
    // training
    {"train_epochs", "null", "write train_iters"},
    {"use_bnb_optimizer", kOff, "8-bit Adam is not supported"},
    {"override_lr_scheduler", kAny, "the configuration's schedule is taken in any case"},
    {"use_checkpoint_lr_scheduler", kOff,
     "the configuration's schedule is taken; write the checkpoint's values"},
    {"scheduler", "null|{}", "DeepSpeed's schedulers are not supported; see [schedule]"},
    {"curriculum_learning", kEnabledOff, "curriculum learning is not supported"},
    {"curriculum_seqlen", kAny, kDerived},
    {"char_level_ppl", kAny, "not reported"},
    // data
    {"train_label_data_paths", "null|[]", kLabels},
    {"valid_label_data_paths", "null|[]", kLabels},
    {"test_label_data_paths", "null|[]", kLabels},
    {"train_reward_data_paths", "null|[]", kLabels},
    {"valid_reward_data_paths", "null|[]", kLabels},
    {"test_reward_data_paths", "null|[]", kLabels},
    {"pos_train_data_paths", "null|[]", kLabels},
    {"pos_valid_data_paths", "null|[]", kLabels},
    {"pos_test_data_paths", "null|[]", kLabels},
    {"neg_train_data_paths", "null|[]", kLabels},
    {"neg_valid_data_paths", "null|[]", kLabels},
    {"neg_test_data_paths", "null|[]", kLabels},
    {"pos_train_label_data_paths", "null|[]", kLabels},
    {"pos_valid_label_data_paths", "null|[]", kLabels},
    {"pos_test_label_data_paths", "null|[]", kLabels},
    {"neg_train_label_data_paths", "null|[]", kLabels},
    {"neg_valid_label_data_paths", "null|[]", kLabels},
    {"neg_test_label_data_paths", "null|[]", kLabels},
    {"data_impl", "mmap|infer|null", "only mmap token files are read"},
    {"pack_impl", "packed|null", "samples are packed"},
    {"allow_chopped", kAny, "only read with pack_impl = unpacked"},
    {"dataset_impl", "gpt2|null", kPostTraining},
    {"train_impl", "normal|null", kPostTraining},
    {"use_shared_fs", kAny, "see data.index_cache_dir"},
    {"num_workers", kAny, "data is read in the background; see data.prefetch"},
    {"short_seq_prob", kAny, kUnread},
    {"precompute_model_name", "null", kPostTraining},
    {"dpo_beta", kAny, kPostTraining},
    {"dpo_fp32", kAny, kPostTraining},
    {"dpo_reference_free", kAny, kPostTraining},
    {"kto_beta", kAny, kPostTraining},
    {"kto_fp32", kAny, kPostTraining},
    {"kto_desirable_weight", kAny, kPostTraining},
    {"kto_undesirable_weight", kAny, kPostTraining},
    {"z_loss", "0|0.0|null", kPostTraining},
    {"kl_impl", kAny, kPostTraining},
    {"kl_div_beta", kAny, kPostTraining},
    {"fp32_reinforce", kAny, kPostTraining},
    {"reinforce_leave_one_out", kAny, kPostTraining},
    {"online_dataserver_ips", kAny, kPostTraining},
    {"online_dataserver_ports", kAny, kPostTraining},
    {"serve_model_weights", kOff, kPostTraining},
    {"weight_server_port", kAny, kUnread},
    // checkpoints
    {"no_save_rng", kAny, kExact},
    {"no_load_rng", kAny, kExact},
    {"checkpoint_validation_with_forward_pass", kAny, "every save is verified by its sums"},
    {"s3_path", "null", "uploads are not built in; see checkpoint.post_save_command"},
    {"s3_chunk_size", kAny, "uploads are not built in; see checkpoint.post_save_command"},
    {"adlr_autoresume", kOff, "NVIDIA's own scheduler is not supported"},
    {"adlr_autoresume_interval", kAny, kUnread},
    // logging, evaluation, generation
    {"steps_per_print", kAny, "see logging.log_interval"},
    {"wall_clock_breakdown", kAny, "see logging.profile"},
    {"use_wandb", kAny, kMonitor},
    {"wandb_project", kAny, kMonitor},
    {"wandb_group", kAny, kMonitor},
    {"wandb_team", kAny, kMonitor},
    {"wandb_host", kAny, kMonitor},
    {"wandb_run_name", kAny, kMonitor},
    {"wandb_init_all_ranks", kAny, kMonitor},
    {"wandb", kAny, kMonitor},
    {"use_comet", kAny, kMonitor},
    {"comet_workspace", kAny, kMonitor},
    {"comet_project", kAny, kMonitor},
    {"comet_experiment_name", kAny, kMonitor},
    {"comet_tags", kAny, kMonitor},
    {"comet_others", kAny, kMonitor},
    {"tensorboard", kAny, kMonitor},
    {"csv_monitor", kAny, kMonitor},
    {"log_grad_norm", kAny, "the norm of all gradients is logged at every step"},
    {"log_param_norm", kAny, "not logged"},
    {"log_grad_pct_zeros", kAny, "not logged"},
    {"log_optimizer_states", kAny, "not logged"},
    {"log_gradient_noise_scale", kAny, "not logged"},
    {"gradient_noise_scale_n_batches", kAny, "not logged"},
    {"gradient_noise_scale_cpu_offload", kAny, "not logged"},
    {"memory_profiling", kAny, "see neox_train --dry-run"},
    {"memory_profiling_path", kAny, "see neox_train --dry-run"},
    {"profile_step_start", kAny, "see logging.profile"},
    {"profile_step_stop", kAny, "see logging.profile"},
    {"eval_tasks", kAny, "evaluation tasks are not part of training"},
    {"eval_results_prefix", kAny, "evaluation tasks are not part of training"},
    {"text_gen_type", kAny, "neox_generate sees it from sample_input_file and interactive"},
    {"return_logits", kOff, "logits are not written"},
    // launch
    {"launcher", kAny, kRanks},
    {"hostfile", kAny, kRanks},
    {"include", kAny, kRanks},
    {"exclude", kAny, kRanks},
    {"num_nodes", kAny, kRanks},
    {"num_gpus", kAny, kRanks},
    {"master_addr", kAny, kRanks},
    {"master_port", kAny, kRanks},
    {"deepspeed_mpi", kAny, kRanks},
    {"deepspeed_slurm", kAny, kRanks},
    {"comment", kAny, kRanks},
    {"account", kAny, kRanks},
    {"no_ssh_check", kAny, kRanks},
    {"force_multi", kAny, kRanks},
    {"detect_nvlink_pairs", kAny, kRanks},
    {"user_script", kAny, kRanks},
    // derived
    {"lr", kAny, kDerived},
    {"optimizer_type", kAny, kDerived},
    {"zero_stage", kAny, kDerived},
    {"zero_reduce_scatter", kAny, kDerived},
    {"zero_contiguous_gradients", kAny, kDerived},
    {"zero_reduce_bucket_size", kAny, kDerived},
    {"zero_allgather_bucket_size", kAny, kDerived},
    {"dynamic_loss_scale", kAny, kDerived},
    {"is_pipe_parallel", kAny, kDerived},
    {"padded_vocab_size", kAny, kDerived},
    {"world_size", kAny, kDerived},
    {"rank", kAny, kDerived},
    {"local_rank", kAny, kDerived},
    {"iteration", kAny, kDerived},
    {"do_train", kAny, kDerived},
    {"do_valid", kAny, kDerived},
    {"do_test", kAny, kDerived},
    {"global_num_gpus", kAny, kDerived},
    {"git_hash", kAny, kDerived},
    {"params_dtype", kAny, kDerived}};

}  // namespace

std::span<const SameKeys> same_keys() {
  return kSame;
}

std::span<const AbsentKey> absent_keys() {
  return kAbsent;
}

}  // namespace neox::detail
