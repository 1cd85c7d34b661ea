"""Runs the CPU engine on an engine folder, without a server."""

import threading
from pathlib import Path

from support import CHECKPOINT
from trireme_build import exact_match
from trireme_build.engine_folder import write_engine
from trireme_build.exact_match import chat_ids, engine_answers, read_examples
from trireme_build.matrices import WeightFormat
from trireme_build.quantization import Quantization
from trireme_build.quantize import Calibration
from trireme_build.reference.tasks import training_examples
from trireme_runtime.engines.base import EngineEvent, EngineRequest, EngineSettings
from trireme_runtime.engines.openvino import OpenVinoEngine

#: The longest answer of the reference tasks has fewer.
MAX_NEW_TOKENS = 352

SETTINGS = EngineSettings(max_num_seqs=64, max_num_tokens=512, kv_cache_tokens=32_768)


def run_all(folder: Path, requests: list[EngineRequest]) -> list[EngineEvent]:
    """The engine's events for requests that are all in flight together."""
    engine = OpenVinoEngine(folder, SETTINGS)
    events: list[EngineEvent] = []
    done = threading.Event()

    def read() -> None:
        for batch in engine.steps():
            events.extend(batch.all_events())
            if sum(event.is_last for event in events) == len(requests):
                done.set()

    reader = threading.Thread(target=read)
    reader.start()
    for request in requests:
        engine.submit(request)
    assert done.wait(600)
    engine.close()
    reader.join(10)
    assert not [event.error for event in events if event.error]
    return events


def share_right(checkpoint: Path, engine: Path, every: int, weight_format: WeightFormat = WeightFormat.F32) -> float:
    """The share of the reference's held-out prompts, one in `every`, that an engine of `checkpoint` gets right.

    engine: the folder that it is made in.
    """
    from transformers import AutoTokenizer

    engine.mkdir()
    write_engine(checkpoint, engine, weight_format.value)
    tok = AutoTokenizer.from_pretrained(checkpoint)
    examples = read_examples(CHECKPOINT / "held_out.jsonl")[::every]
    ids = engine_answers(
        engine, [chat_ids(tok, e.prompt) for e in examples], [MAX_NEW_TOKENS] * len(examples), tok.eos_token_id
    )
    shares = exact_match.share_right(tok, examples, ids)
    print(f"{shares}, {(engine / 'openvino_model.bin').stat().st_size / 1e6:.1f} MB")
    return shares["all"]


def calibration() -> Calibration:
    """Conversations that the reference checkpoint knows."""
    examples = training_examples(seed=5)
    texts = (f"<|user|>{example.prompt}<|assistant|>{example.answer}</s>" for example in examples)
    return Calibration(texts, blocks=8, length=128)


def exported(folder: Path, quantization: Quantization, source: Path = CHECKPOINT) -> Path:
    """A checkpoint quantized and exported; the folder of the export, which is made in `folder`."""
    from trireme_build.export import export_huggingface
    from trireme_build.quantize import calibrate

    calibrated = source
    if quantization is not Quantization.BF16:
        calibrated = folder / "calibrated"
        calibrate(source, calibrated, quantization, calibration())
    export_huggingface(calibrated, source, folder / "huggingface")
    return folder / "huggingface"
