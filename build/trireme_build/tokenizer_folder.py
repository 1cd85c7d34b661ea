"""The tokenizer of a checkpoint as a folder inside a version."""

import json
import shutil
from pathlib import Path

#: What a tokenizer folder may hold; a checkpoint need not have all of them.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def copy_tokenizer(checkpoint: Path, out: Path, context_tokens: int) -> None:
    """Copy the tokenizer of a checkpoint into the new folder `out`; its model_max_length is the model's context."""
    out.mkdir()
    for name in TOKENIZER_FILES:
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, out / name)
    path = out / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if config.get("model_max_length") != context_tokens:
        config["model_max_length"] = context_tokens
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
