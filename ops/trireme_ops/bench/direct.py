"""The engine driven directly, in this process, with the requests that `load` sends: nothing but the engine.

python -m trireme_ops.bench.direct ENGINE ENGINE_FOLDER SETTINGS TOKENIZER < LOAD_AS_JSON > RESULT_AS_JSON
"""

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from trireme_runtime.engines.base import EngineRequest, EngineSettings
from trireme_runtime.engines.engine_child import Generator
from trireme_runtime.tokenizing import Encoder, load_tokenizer

from .load import Load, Result, cpu_s, prompt_of


def start(name: str, folder: Path, settings: EngineSettings) -> Generator:
    """The generator of an engine, without its process. Raises ValueError for an unknown name."""
    if name == "null":
        from trireme_runtime.engines.null_child import NullGenerator

        return NullGenerator(folder, settings)
    if name == "openvino":
        from trireme_runtime.engines.openvino_child import Generator as OpenVinoGenerator

        return OpenVinoGenerator(folder, settings)
    raise ValueError(f"no engine {name!r} can be driven directly")


@dataclass
class _Answer:
    number: int
    began: float
    last: float = 0.0


def run(load: Load, generator: Generator, encoder: Encoder) -> Result:
    """Put the load on in a closed loop."""
    result = Result(0.0, 0, 0, 0, 0.0)
    under_way: dict[int, _Answer] = {}
    measuring = False

    def submit(number: int) -> None:
        (ids,) = encoder.encode_batch([prompt_of(load, number)])
        under_way[number] = _Answer(number, time.perf_counter())
        generator.submit(EngineRequest(number + 1, tuple(ids.tolist()), load.max_tokens, None))

    for number in range(load.concurrency):
        submit(number)
    begin = time.perf_counter() + load.warm_up_s
    cpu_before = 0.0
    while True:
        step = generator.step()
        now = time.perf_counter()
        counted = measuring
        if not measuring and now >= begin:
            measuring, begin, cpu_before = True, now, cpu_s()
        for event in step.all_events():
            answer = under_way[event.key - 1]
            if counted:
                result.tokens += len(event.ids)
                result.messages += 1
                if answer.last:
                    result.gaps_ms.append(1000 * (now - answer.last))
                else:
                    result.ttft_ms.append(1000 * (now - answer.began))
                result.requests += event.is_last
            answer.last = now
            if event.is_last:
                del under_way[event.key - 1]
                time.sleep(load.pause_s)
                submit(answer.number + load.concurrency)
        if measuring and now >= begin + load.seconds:
            result.seconds, result.generator_cpu_s = now - begin, cpu_s() - cpu_before
            return result


def main() -> None:
    name, folder, settings, tokenizer = sys.argv[1:]
    generator = start(name, Path(folder), EngineSettings(**json.loads(settings)))
    load = Load(**json.load(sys.stdin))
    json.dump(asdict(run(load, generator, Encoder(load_tokenizer(Path(tokenizer))))), sys.stdout)


if __name__ == "__main__":
    main()
