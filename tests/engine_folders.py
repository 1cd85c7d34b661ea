"""Engine folders of TensorRT-LLM, as trtllm-build lays them out, with plans that hold a header and nothing else."""

import copy
import json
from pathlib import Path
from typing import Any

#: What `read_engine_folder` reads of a small Llama, and no more.
CONFIG: dict[str, Any] = {
    "version": "1.2.1",
    "pretrained_config": {
        "architecture": "LlamaForCausalLM",
        "dtype": "bfloat16",
        "vocab_size": 100,
        "hidden_size": 256,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "mapping": {"world_size": 1, "tp_size": 1, "pp_size": 1, "cp_size": 1},
        "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"},
    },
    "build_config": {
        "max_input_len": 512,
        "max_seq_len": 1024,
        "max_batch_size": 8,
        "max_num_tokens": 2048,
        "max_beam_width": 4,
        "plugin_config": {"tokens_per_block": 32, "use_paged_context_fmha": True},
    },
}

#: A plan of TensorRT 10.14.1.48.
PLAN = b"ftrt" + bytes(20) + bytes([10, 14, 1, 48]) + bytes(100)


def config_with(**changes: Any) -> dict[str, Any]:
    """CONFIG with values changed by path, parts joined by two underscores; None removes the key."""
    config = copy.deepcopy(CONFIG)
    for name, value in changes.items():
        *parents, key = name.split("__")
        place = config
        for parent in parents:
            place = place[parent]
        if value is None:
            del place[key]
        else:
            place[key] = value
    return config


def write_engine_folder(folder: Path, config: dict[str, Any] = CONFIG, ranks: int = 1) -> Path:
    """An engine folder with `ranks` plans."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    for rank in range(ranks):
        (folder / f"rank{rank}.engine").write_bytes(PLAN)
    return folder
