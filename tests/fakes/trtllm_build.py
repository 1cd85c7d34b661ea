"""`trtllm-build` of TensorRT-LLM 1.2.1 as far as its command line: it takes upstream's flags, and no other.

Flags, types, choices and defaults are those of parse_arguments in upstream's tensorrt_llm/commands/build.py (commit
65f1d1536e18) and of cli_plugin_args and PluginConfig in tensorrt_llm/plugin/plugin.py (commit c20322ffd3dc). It writes
the engine folder that Engine.save in tensorrt_llm/builder.py would, with a plan that holds a header only.
"""

import argparse
import json
import sys
from pathlib import Path

DTYPES = ("auto", "float16", "float32", "bfloat16", "int32", "disable")
PLAN = b"ftrt" + bytes(20) + bytes([10, 14, 1, 48]) + bytes(100)

#: Of build.py: flag -> default, by type.
INTEGERS = {
    "max_batch_size": 2048,
    "max_input_len": 1024,
    "max_beam_width": 1,
    "max_num_tokens": 8192,
    "max_encoder_input_len": 1024,
    "workers": 1,
    "max_lora_rank": 64,
    "max_draft_len": 0,
}
TEXTS = ("model_config", "build_config", "model_cls_file", "model_cls_name", "input_timing_cache", "visualize_network")
SWITCHES = (
    "strip_plan weight_sparsity weight_streaming fast_build enable_debug_output dry_run monitor_memory "
    "gather_context_logits gather_generation_logits gather_all_token_logits"
).split()

#: Of plugin.py: dtype plugins, and features -> whether they are on by default.
PLUGINS = (
    "bert_attention_plugin gpt_attention_plugin fp8_rowwise_gemm_plugin lora_plugin moe_plugin mamba_conv1d_plugin "
    "nccl_plugin"
).split()
FP8_PLUGINS = ("gemm_swiglu_plugin", "low_latency_gemm_plugin", "low_latency_gemm_swiglu_plugin")
FEATURES = {
    "dora_plugin": False,
    "context_fmha": True,
    "bert_context_fmha_fp32_acc": False,
    "remove_input_padding": True,
    "use_paged_context_fmha": True,
    "use_fp8_context_fmha": True,
    "fuse_fp4_quant": False,
    "multiple_profiles": False,
    "paged_state": True,
    "streamingllm": False,
    "norm_quant_fusion": False,
    "reduce_fusion": False,
    "user_buffer": False,
    "use_fused_mlp": True,
    "pp_reduce_scatter": False,
}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="trtllm-build", allow_abbrev=False)
    made.add_argument("--checkpoint_dir", type=str, default=None)
    made.add_argument("--output_dir", type=str, default="engine_outputs")
    made.add_argument("--max_seq_len", "--max_decoder_seq_len", dest="max_seq_len", type=int, default=None)
    made.add_argument("--opt_num_tokens", type=int, default=None)
    made.add_argument("--max_prompt_embedding_table_size", "--max_multimodal_len", type=int, default=0)
    made.add_argument("--kv_cache_type", default="paged", choices=["continuous", "paged", "disabled"])
    made.add_argument("--paged_kv_cache", type=str, default=argparse.SUPPRESS)
    made.add_argument("--output_timing_cache", type=str, default="model.cache")
    verbosities = ["layer_names_only", "detailed", "none"]
    made.add_argument("--profiling_verbosity", default="layer_names_only", choices=verbosities)
    levels = ["internal_error", "error", "warning", "info", "verbose", "debug", "trace"]
    made.add_argument("--log_level", default="info", choices=levels)
    made.add_argument("--logits_dtype", default=None, choices=["float16", "float32"])
    made.add_argument("--lora_dir", default=None, nargs="+")
    made.add_argument("--lora_ckpt_source", default="hf", choices=["hf", "nemo"])
    made.add_argument("--lora_target_modules", default=None, nargs="+")
    modes = ["draft_tokens_external", "lookahead_decoding", "medusa", "explicit_draft_tokens", "eagle"]
    made.add_argument("--speculative_decoding_mode", default=None, choices=modes)
    for name, default in INTEGERS.items():
        made.add_argument(f"--{name}", type=int, default=default)
    for name in TEXTS:
        made.add_argument(f"--{name}", type=str, default=None)
    for name in SWITCHES:
        made.add_argument(f"--{name}", action="store_true")
    for name in PLUGINS:
        made.add_argument(f"--{name}", default="disable", choices=DTYPES)
    for name in FP8_PLUGINS:
        made.add_argument(f"--{name}", default="disable", choices=["fp8", "disable"])
    made.add_argument("--gemm_plugin", default=None, choices=[*DTYPES, "fp8", "nvfp4"])
    made.add_argument("--gemm_allreduce_plugin", default="disable", choices=["float16", "bfloat16", "disable"])
    made.add_argument("--tokens_per_block", type=int, default=32)
    for name, on in FEATURES.items():
        made.add_argument(f"--{name}", default="enable" if on else "disable", choices=["enable", "disable"])
    return made


def main() -> None:
    arguments = parser().parse_args()
    if arguments.multiple_profiles == "enable" and arguments.opt_num_tokens is not None:
        raise RuntimeError("multiple_profiles is enabled, while opt_num_tokens is set")
    model = json.loads((Path(arguments.checkpoint_dir) / "config.json").read_text())
    kv_cache = model["quantization"]["kv_cache_quant_algo"]
    if arguments.use_fp8_context_fmha == "enable" and kv_cache != "FP8":
        raise RuntimeError("FP8 context FMHA goes with an FP8 KV cache")
    sizes = ("max_batch_size", "max_input_len", "max_seq_len", "max_num_tokens", "max_beam_width")
    build = {
        **{name: getattr(arguments, name) for name in sizes},
        "kv_cache_type": arguments.kv_cache_type.upper(),
        "plugin_config": {
            "gemm_plugin": arguments.gemm_plugin,
            "tokens_per_block": arguments.tokens_per_block,
            **{name: getattr(arguments, name) == "enable" for name in FEATURES},
        },
    }
    out = Path(arguments.output_dir)
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(
        json.dumps({"version": "1.2.1", "pretrained_config": model, "build_config": build})
    )
    (out / "rank0.engine").write_bytes(PLAN)
    Path(arguments.output_timing_cache).write_bytes(b"")


if __name__ == "__main__":
    sys.exit(main())
