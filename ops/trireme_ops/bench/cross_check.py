"""`make cross-check`: the same load by `trireme load` and by NVIDIA's perf_analyzer, in turns; do they agree?

The server has the null engine with set times, so that it does the same for both.
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from ..layout import Layout
from .load_runs import streaming_chat
from .perf_analyzer import prepare
from .root import NullModel, copy_repositories, use_null_engine
from .runs import write_json
from .serving import grpc_address, serving

#: Users, and how often each tool measures each.
USERS, ROUNDS = (1, 8, 32), 3

#: What is asked: so many tokens, the first after so many ms and then one after so many.
TOKENS, FIRST_MS, TOKEN_MS = 32, 20.0, 5.0
PROMPT = "Tell me something about the sea."

#: By how much throughput may differ.
ALLOWED = 0.10


def run(layout: Layout, seconds: float) -> int:
    """Measure and show; 1 if they do not agree. Ends with one line of JSON."""
    tool = prepare(layout)
    found = []
    with tempfile.TemporaryDirectory(prefix="trireme-cross-check-") as name:
        folder = Path(name)
        copied = copy_repositories(layout, folder / "root", {"max_chunk_delay_ms": "0", "max_num_sequences": "128"})
        tokenizer = layout.root / "model_repository" / "postprocessing" / "1" / "tokenizer"
        model = replace(NullModel.of_tokenizer(tokenizer), first_token_ms=FIRST_MS, token_ms=TOKEN_MS)
        use_null_engine(copied, model)
        (folder / "data.json").write_text(json.dumps(_data()), encoding="utf-8")
        (folder / "prompts.jsonl").write_text(json.dumps(_prompt()) + "\n", encoding="utf-8")
        with serving(copied) as server:
            address = grpc_address(server)
            for users in USERS:
                ours, theirs = [], []
                for turn in range(ROUNDS):
                    place = folder / f"{users}-{turn}"
                    ours.append(_ours(address, users, seconds, folder / "prompts.jsonl", place))
                    theirs.append(
                        tool.run(address, users, seconds, folder / "data.json", folder / f"{users}-{turn}.csv")
                    )
                found.append({"users": users, "trireme_load": ours, "perf_analyzer": theirs})
    return _show(layout, found)


def _show(layout: Layout, found: list[dict[str, Any]]) -> int:
    write_json(layout, "cross-check", {"runs": found})
    print(f"{'users':>5}  {'trireme load':>12}  {'perf_analyzer':>13}  {'ratio':>6}   (requests/s, medians)")
    worst = 0.0
    for one in found:
        ours, theirs = median(one["trireme_load"]), median(one["perf_analyzer"])
        worst = max(worst, abs(ours / theirs - 1))
        print(f"{one['users']:5}  {ours:12.2f}  {theirs:13.2f}  {ours / theirs:6.3f}")
    print(json.dumps({"largest_difference": round(worst, 4), "allowed": ALLOWED}))
    return int(worst > ALLOWED)


def _ours(address: str, users: int, seconds: float, prompts: Path, out: Path) -> float:
    options = {"duration": f"{seconds}s", "warm-up": "2s", "prompts": str(prompts)}
    return float(streaming_chat(address, users, options, out)["requests_per_s"])


def _prompt() -> dict[str, Any]:
    return {"prompt": PROMPT, "max_tokens": TOKENS, "ignore_eos": True}


def _data() -> dict[str, Any]:
    """The same request, as perf_analyzer reads it."""
    return {"data": [{"text_input": [PROMPT], "max_tokens": [TOKENS], "ignore_eos": [True], "stream": [True]}]}
