"""The adapters of TensorRT-LLM through their child processes, over a strict fake of the package (tests/fakes)."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine_folders import CONFIG, config_with, write_engine_folder
from support import ROOT, wait_for
from trireme_runtime.contract import Code, FinishReason
from trireme_runtime.engines import load_engine
from trireme_runtime.engines.asynchronous_child import pack
from trireme_runtime.engines.base import (
    EngineDied,
    EngineEvent,
    EngineRequest,
    EngineSettings,
    EngineStep,
    Sampling,
)
from trireme_runtime.engines.tensorrt_llm_folder import EngineFolderError
from trireme_runtime.engines.tensorrt_llm_requests import sampling_arguments

FAKES = ROOT / "tests" / "fakes"
VOCAB = CONFIG["pretrained_config"]["vocab_size"]
SETTINGS = EngineSettings(max_num_seqs=8, max_num_tokens=256, kv_cache_tokens=4096, hang_timeout_s=20)
ENGINES = ("tensorrt_llm", "tensorrt_llm_engine")

Start = Callable[..., Any]


@pytest.fixture(scope="module")
def fake() -> Iterator[Any]:
    """The fake package, importable here and in children."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(FAKES))
        patch.syspath_prepend(str(FAKES))
        patch.setenv("TLLM_WORKER_USE_SINGLE_PROCESS", "1")
        import tensorrt_llm
        import tensorrt_llm._model

        yield tensorrt_llm
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorrt_llm"]:
        del sys.modules[name]


def write_folder(name: str, folder: Path) -> Path:
    if name == "tensorrt_llm_engine":
        return write_engine_folder(folder)
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"vocab_size": VOCAB, "max_position_embeddings": 1024}))
    return folder


@pytest.fixture
def start(fake: Any, tmp_path: Path) -> Iterator[Start]:
    """Starts an engine by its name; all are closed at the end."""
    started = []

    def begin(name: str, settings: EngineSettings = SETTINGS) -> Any:
        started.append(load_engine(name, write_folder(name, tmp_path / "engine"), settings))
        return started[-1]

    yield begin
    for engine in started:
        engine.close()
        assert not Path(f"/proc/{engine.pid}").exists()


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, fake: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Each of the two, shared by the tests that leave nothing running in it."""
    started = load_engine(request.param, write_folder(request.param, tmp_path_factory.mktemp("engine")), SETTINGS)
    yield started
    started.close()


@pytest.fixture(params=ENGINES)
def own_engine(request: pytest.FixtureRequest, start: Start) -> Any:
    """Each of the two, for a test that ends it."""
    return start(request.param)


class Reader:
    """The events of an engine, by key."""

    def __init__(self, engine: Any) -> None:
        self._steps = engine.steps()
        self.steps: list[EngineStep] = []
        self.events: dict[int, list[EngineEvent]] = {}

    def until(self, condition: Callable[[], Any]) -> None:
        while not condition():
            self.steps.append(next(self._steps))
            for event in self.steps[-1].all_events():
                told = self.events.setdefault(event.key, [])
                assert not told or not told[-1].is_last, "nothing comes after the last event"
                told.append(event)

    def ended(self, *keys: int) -> bool:
        return all(self.events.get(key) and self.events[key][-1].is_last for key in keys)

    def ids(self, key: int) -> list[int]:
        return [token for event in self.events.get(key, []) for token in event.ids]


def generate(engine: Any, *requests: EngineRequest) -> Reader:
    reader = Reader(engine)
    for request in requests:
        engine.submit(request)
    reader.until(lambda: reader.ended(*(request.key for request in requests)))
    return reader


def expected(fake: Any, prompt: tuple[int, ...], count: int, **more: Any) -> list[int]:
    draw = fake._model.Draw(**{key: more.pop(key) for key in list(more) if key not in ("end_id", "min_tokens")})
    return list(fake._model.answer(list(prompt), count, VOCAB, draw, **more))


def test_limits_come_from_the_model_and_the_settings(start: Start) -> None:
    llmapi = start("tensorrt_llm").limits
    assert (llmapi.vocab_size, llmapi.max_context_tokens, llmapi.max_num_seqs) == (VOCAB, 1024, 8)
    settings = EngineSettings(max_num_seqs=500, max_num_tokens=100_000, kv_cache_tokens=4100)
    built = start("tensorrt_llm_engine", settings).limits
    assert (built.vocab_size, built.max_context_tokens, built.max_num_seqs) == (VOCAB, 1024, 8)
    assert built.kv_cache_tokens == 4096
    assert built.kv_blocks == 128


def test_ids_stream_one_by_one_as_they_come(engine: Any, fake: Any) -> None:
    reader = generate(engine, EngineRequest(1, (5, 6), 40, None))
    assert reader.ids(1) == expected(fake, (5, 6), 40)
    assert reader.events[1][-1].finish_reason is FinishReason.LENGTH
    assert len(reader.events[1]) == 40
    assert reader.steps[-1].kv_blocks_used == 0
    assert max(step.kv_blocks_used for step in reader.steps) == 2, "42 tokens in blocks of 32"


def test_many_requests_at_once_each_get_their_own_ids(engine: Any, fake: Any) -> None:
    requests = [EngineRequest(key, (key, key + 1), 10 + key, None) for key in range(1, 31)]
    reader = generate(engine, *requests)
    for request in requests:
        assert reader.ids(request.key) == expected(fake, request.input_ids, request.max_new_tokens)


def test_the_end_id_ends_an_answer_and_is_left_out(engine: Any, fake: Any) -> None:
    end_id = expected(fake, (5,), 4)[3]
    reader = generate(
        engine,
        EngineRequest(1, (5,), 40, end_id, log_probs=True),
        EngineRequest(2, (5,), 40, end_id, Sampling(min_tokens=10)),
        EngineRequest(3, (5,), 40, None, Sampling(min_tokens=10)),
    )
    assert reader.ids(1) == expected(fake, (5,), 3)
    assert reader.events[1][-1].finish_reason is FinishReason.STOP
    assert reader.ids(2) == expected(fake, (5,), 40, end_id=end_id, min_tokens=10)
    assert len(reader.ids(2)) > 10
    assert reader.ids(3) == expected(fake, (5,), 40)


def test_sampling_reaches_the_engine(engine: Any, fake: Any) -> None:
    samplings = {
        1: Sampling(temperature=0.7, seed=11, top_k=4, top_p=0.9),
        2: Sampling(temperature=0.7, seed=12, top_p=1.0),
        3: Sampling(repetition_penalty=1.5),
        4: Sampling(presence_penalty=0.5, frequency_penalty=-0.25),
        5: Sampling(temperature=0.0, seed=11),
    }
    reader = generate(engine, *(EngineRequest(key, (5,), 6, None, value) for key, value in samplings.items()))
    assert reader.ids(1) == expected(fake, (5,), 6, seed=11)
    assert reader.ids(2) == expected(fake, (5,), 6, seed=12)
    assert reader.ids(3) == expected(fake, (5,), 6, repetition_penalty=1.5)
    assert reader.ids(4) == expected(fake, (5,), 6, presence_penalty=0.5, frequency_penalty=-0.25)
    assert reader.ids(5) == expected(fake, (5,), 6), "greedy, whatever the seed"


@pytest.mark.parametrize(
    ("sampling", "arguments"),
    [
        (Sampling(), {"top_k": 1}),
        (Sampling(top_k=50, top_p=0.5, seed=3), {"top_k": 1}),
        (
            Sampling(temperature=0.7, top_k=4, top_p=0.9, seed=11),
            {"temperature": 0.7, "top_k": 4, "top_p": 0.9, "seed": 11},
        ),
        (Sampling(min_tokens=5, repetition_penalty=1.2), {"top_k": 1, "min_tokens": 5, "repetition_penalty": 1.2}),
        (Sampling(presence_penalty=-2), {"top_k": 1, "presence_penalty": -2}),
        (Sampling(beam_width=4), {}),
    ],
)
def test_what_is_asked_is_given_and_nothing_else(sampling: Sampling, arguments: dict[str, Any]) -> None:
    assert sampling_arguments(EngineRequest(1, (5,), 8, 2, sampling)) == arguments
    without_end = sampling_arguments(EngineRequest(1, (5,), 8, None, sampling))
    assert without_end == {key: value for key, value in arguments.items() if key != "min_tokens"}


def test_without_a_seed_each_request_draws_one(engine: Any) -> None:
    reader = generate(engine, *(EngineRequest(key, (5,), 4, None, Sampling(temperature=1.0)) for key in range(8)))
    assert len({tuple(reader.ids(key)) for key in range(8)}) > 1


def test_log_probs_are_as_long_as_the_ids(engine: Any, fake: Any) -> None:
    reader = generate(engine, EngineRequest(1, (5,), 12, None, log_probs=True), EngineRequest(2, (5,), 12, None))
    told = [value for event in reader.events[1] for value in event.log_probs]
    assert told == pytest.approx(fake._model.log_probs(12))
    assert all(not event.log_probs for event in reader.events[2])


def test_the_last_event_says_when_it_was_computed(engine: Any) -> None:
    before_ns = time.monotonic_ns()
    reader = generate(engine, EngineRequest(1, (5,), 40, None), EngineRequest(2, (5,), 3, None, reports=True))
    last = reader.events[1][-1]
    assert last.times is not None and last.cache is not None
    assert before_ns <= last.times.first_scheduled_ns <= last.times.first_token_ns < last.times.last_token_ns
    assert last.times.last_token_ns <= time.monotonic_ns()
    assert last.cache.new_blocks == 2
    assert all(event.times is None for event in reader.events[1][:-1])
    assert all(event.times is not None for event in reader.events[2])


def test_a_cancelled_request_ends_at_once_and_its_key_can_be_used_again(engine: Any, fake: Any) -> None:
    reader = Reader(engine)
    engine.submit(EngineRequest(1, (5,), 1000, None))
    engine.submit(EngineRequest(2, (6,), 300, None))
    reader.until(lambda: len(reader.events.get(1, ())) >= 3)
    engine.cancel(1)
    engine.cancel(77)
    reader.until(lambda: reader.ended(1))
    assert reader.events[1][-1].finish_reason is FinishReason.CANCELLED
    assert len(reader.ids(1)) < 1000
    for _ in range(3):
        reader.events.pop(1, None)
        engine.submit(EngineRequest(1, (7, 8), 5, None))
        reader.until(lambda: reader.ended(1))
        assert reader.ids(1) == expected(fake, (7, 8), 5)
    engine.submit(EngineRequest(3, (fake._model.HANGS,), 5, None))
    with pytest.raises(ValueError, match="engine key 3 is already active"):
        engine.submit(EngineRequest(3, (5,), 5, None))
    engine.cancel(3)
    reader.until(lambda: reader.ended(2, 3))


def test_a_request_can_be_cancelled_before_anything_came_of_it(engine: Any, fake: Any) -> None:
    reader = Reader(engine)
    engine.submit(EngineRequest(1, (fake._model.HANGS,), 10, None))
    engine.cancel(1)
    reader.until(lambda: reader.ended(1))
    assert reader.events[1][-1].finish_reason is FinishReason.CANCELLED


def test_what_the_engine_refuses_ends_that_request_only(engine: Any, fake: Any) -> None:
    model = fake._model
    reader = generate(
        engine,
        EngineRequest(1, (model.REFUSED, 1), 10, None),
        EngineRequest(2, (5,), 60, None),
        EngineRequest(3, (model.FAILS,), 10, None),
    )
    refused, failed = reader.events[1][-1].error, reader.events[3][-1].error
    assert refused is not None and refused.code is Code.INVALID_ARGUMENT
    assert refused.message == "the engine refuses: The model is in no mood"
    assert failed is not None and failed.code is Code.INTERNAL
    assert failed.message == "the engine gave the request up: out of luck"
    assert len(reader.ids(3)) == model.LAST_STEP
    assert reader.ids(2) == expected(fake, (5,), 60)


@pytest.mark.parametrize("how", ["KILLS", "BREAKS"])
def test_an_engine_that_dies_takes_its_requests_along(own_engine: Any, fake: Any, how: str) -> None:
    engine = own_engine
    reader = Reader(engine)
    engine.submit(EngineRequest(1, (getattr(fake._model, how),), 10, None))
    with pytest.raises(EngineDied) as caught:
        reader.until(lambda: False)
    assert caught.value.cause == "ended"
    # What was on its way when the process ended is lost.
    assert len(reader.ids(1)) <= fake._model.LAST_STEP
    with pytest.raises(EngineDied):
        wait_for(lambda: engine.submit(EngineRequest(2, (5,), 5, None)), what="a refusal to take more")


def test_an_engine_that_waits_for_its_gpu_is_not_taken_for_a_stopped_one(start: Start, fake: Any) -> None:
    engine = start("tensorrt_llm_engine")
    reader = Reader(engine)
    engine.submit(EngineRequest(1, (fake._model.HANGS,), 10, None))
    began = time.monotonic()
    while time.monotonic() - began < 1.6:
        assert Path(f"/proc/{engine.pid}").exists()
        time.sleep(0.05)
    engine.cancel(1)
    reader.until(lambda: reader.ended(1))


def test_an_engine_that_hangs_is_ended(start: Start, fake: Any) -> None:
    engine = start("tensorrt_llm", EngineSettings(hang_timeout_s=0.5))
    engine.submit(EngineRequest(1, (fake._model.HANGS,), 10, None))
    with pytest.raises(EngineDied, match="made no progress") as caught:
        Reader(engine).until(lambda: False)
    assert caught.value.cause == "hung"


def test_an_idle_engine_uses_next_to_no_processor_time(engine: Any) -> None:
    generate(engine, EngineRequest(1, (5,), 5, None))

    def used_s() -> float:
        fields = Path(f"/proc/{engine.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before, began = used_s(), time.monotonic()
    while time.monotonic() - began < 0.4:
        time.sleep(0.1)
    assert used_s() - before <= 0.03


def test_beams_come_in_one_piece_best_first(start: Start, fake: Any) -> None:
    engine = start("tensorrt_llm_engine")
    assert {"beam_width", "len_penalty"} <= engine.honours
    sampling = Sampling(beam_width=3, length_penalty=0.5)
    reader = generate(
        engine,
        EngineRequest(1, (5,), 6, None, sampling, num_beams_returned=2, log_probs=True),
        EngineRequest(2, (5,), 6, None, Sampling(beam_width=5)),
    )
    (event,) = reader.events[1]
    assert [list(beam.ids[:-1]) for beam in event.beams] == [expected(fake, (5,), 5)] * 2
    assert all(len(beam.log_probs) == len(beam.ids) == 6 for beam in event.beams)
    assert event.finish_reason is FinishReason.LENGTH
    (refused,) = reader.events[2]
    assert refused.error is not None
    assert refused.error.message == "beam_width is 5; at most 4 is allowed"


def test_an_engine_built_for_one_beam_honours_no_beam_search(fake: Any, tmp_path: Path) -> None:
    folder = write_engine_folder(tmp_path, config_with(build_config__max_beam_width=1))
    engine = load_engine("tensorrt_llm_engine", folder, SETTINGS)
    assert "beam_width" not in engine.honours
    engine.close()


def test_an_engine_without_paged_context_attention_shares_no_blocks(fake: Any, tmp_path: Path) -> None:
    config = config_with(build_config__plugin_config__use_paged_context_fmha=False)
    engine = load_engine("tensorrt_llm_engine", write_engine_folder(tmp_path, config), SETTINGS)
    assert generate(engine, EngineRequest(1, (5,), 3, None)).ids(1) == expected(fake, (5,), 3)
    engine.close()


def test_news_of_one_request_keep_their_order_in_a_step() -> None:
    events = [
        EngineEvent(1, (5,)),
        EngineEvent(2, (6, 7)),
        EngineEvent(1, (8,)),
        EngineEvent(2, (9,)),
        EngineEvent(3, (4,), FinishReason.LENGTH),
    ]
    step = pack(events, 3)
    assert (list(step.keys), list(step.ids), step.kv_blocks_used) == ([1], [5], 3)
    for key in (1, 2, 3):
        assert [e for e in step.all_events() if e.key == key] == [e for e in events if e.key == key]


@pytest.mark.parametrize("name", ENGINES)
def test_without_the_package_the_reason_is_told(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with pytest.raises(RuntimeError, match="tensorrt_llm is not installed; this engine runs in NVIDIA's container"):
        load_engine(name, write_folder(name, tmp_path), SETTINGS)


def test_another_series_of_the_package_is_refused(fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_TENSORRT_LLM_VERSION", "1.4.0")
    with pytest.raises(RuntimeError, match=r"tensorrt_llm is 1\.4\.0; the adapters are written to 1\.2"):
        load_engine("tensorrt_llm", write_folder("tensorrt_llm", tmp_path), SETTINGS)


def test_folders_that_cannot_be_used_are_refused_by_name(fake: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json: cannot be read"):
        load_engine("tensorrt_llm", tmp_path, SETTINGS)
    (tmp_path / "config.json").write_text('{"vocab_size": 100}')
    with pytest.raises(ValueError, match="max_position_embeddings is None; a whole number above 0"):
        load_engine("tensorrt_llm", tmp_path, SETTINGS)
    with pytest.raises(EngineFolderError, match="the keys are vocab_size"):
        load_engine("tensorrt_llm_engine", tmp_path, SETTINGS)
    two = config_with(pretrained_config__mapping={"tp_size": 2})
    with pytest.raises(EngineFolderError, match="is for 2 GPUs; this adapter runs engines for one"):
        load_engine("tensorrt_llm_engine", write_engine_folder(tmp_path, two, ranks=2), SETTINGS)


def test_a_killed_child_is_heard_of(own_engine: Any) -> None:
    os.kill(own_engine.pid, signal.SIGKILL)
    with pytest.raises(EngineDied, match="ended with status -9"):
        Reader(own_engine).until(lambda: False)


class TestTheFakeRefusesWhatUpstreamWould:
    """Else the tests above would prove nothing."""

    def llm(self, fake: Any, folder: Path, **more: Any) -> Any:
        write_folder("tensorrt_llm", folder)
        return fake.LLM(str(folder), skip_tokenizer_init=True, **more)

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"max_tokens": 4.0}, TypeError),
            ({"end_id": "eos"}, TypeError),
            ({"top_p": 1.5}, ValueError),
            ({"temperature": -1.0}, ValueError),
            ({"top_k": -1}, ValueError),
            ({"maximum_tokens": 4}, TypeError),
            ({"best_of": 1, "n": 2}, ValueError),
        ],
    )
    def test_sampling_params(self, fake: Any, arguments: dict[str, Any], error: type[Exception]) -> None:
        with pytest.raises(error):
            fake.SamplingParams(**arguments)

    def test_arguments_of_llm(self, fake: Any, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="LLM got invalid argument: max_sequences"):
            self.llm(fake, tmp_path, max_sequences=4)
        with pytest.raises(TypeError, match="max_batch_size"):
            self.llm(fake, tmp_path, max_batch_size="4")
        with pytest.raises(ValueError, match="sampler_type"):
            self.llm(fake, tmp_path, sampler_type="TheirSampler")
        with pytest.raises(TypeError, match="max_token"):
            fake.llmapi.KvCacheConfig(max_token=4)
        with pytest.raises(RuntimeError, match="no code of the checkpoint's"):
            self.llm(fake, tmp_path, trust_remote_code=True)

    def test_requests_of_the_llm_api(self, fake: Any, tmp_path: Path) -> None:
        llm = self.llm(fake, tmp_path, sampler_type="TRTLLMSampler", max_num_tokens=16)

        def params(**more: Any) -> Any:
            return fake.SamplingParams(**{"end_id": -1, "detokenize": False, **more})

        async def check() -> None:
            for inputs in ("text", ["a"], (1, 2)):
                with pytest.raises(TypeError):
                    llm.generate_async(inputs, params())
            with pytest.raises(ValueError, match="tokenizer is required"):
                llm.generate_async([1], params(end_id=None))
            with pytest.raises(fake.llmapi.RequestError, match="out of range"):
                llm.generate_async([VOCAB], params())
            with pytest.raises(fake.llmapi.RequestError, match="default_max_tokens"):
                llm.generate_async([1], params(max_tokens=5000))
            with pytest.raises(fake.llmapi.RequestError, match="should not exceed"):
                llm.generate_async([1] * 17, params())
            llm.shutdown()
            with pytest.raises(RuntimeError, match="shutting down"):
                llm.generate_async([1], params())

        asyncio.run(check())

    def test_the_other_sampler_would_ignore_penalties(self, fake: Any, tmp_path: Path) -> None:
        llm = self.llm(fake, tmp_path)

        async def check() -> None:
            with pytest.raises(AssertionError, match="TorchSampler"):
                llm.generate_async([1], fake.SamplingParams(end_id=1, detokenize=False, repetition_penalty=1.2))

        asyncio.run(check())
        llm.shutdown()

    def test_the_executor(self, fake: Any, tmp_path: Path) -> None:
        executor = fake.bindings.executor
        folder = write_engine_folder(tmp_path)
        with pytest.raises(TypeError):
            executor.ExecutorConfig(max_batch=4)
        with pytest.raises(TypeError):
            executor.ExecutorConfig(max_batch_size=4.0)
        with pytest.raises(RuntimeError, match="max_batch_size is larger"):
            executor.Executor(folder, executor.ModelType.DECODER_ONLY, executor.ExecutorConfig(max_batch_size=9))
        for bad in ("text", [1.0], (1,)):
            with pytest.raises(TypeError):
                executor.Request(bad, 4)
        sampling, output = executor.SamplingConfig(), executor.OutputConfig()
        for ids, count in (([], 4), ([1], 0)):
            with pytest.raises(RuntimeError):
                executor.Request(ids, count, sampling_config=sampling, output_config=output)
        for arguments in ({"top_p": 0.0}, {"beam_width": 0}, {"num_return_sequences": 2}):
            with pytest.raises(RuntimeError):
                executor.SamplingConfig(**arguments)
        running = executor.Executor(folder, executor.ModelType.DECODER_ONLY, executor.ExecutorConfig(max_batch_size=4))
        with pytest.raises(TypeError):
            running.await_responses(timeout=1)
        request = executor.Request([VOCAB], 4, sampling_config=sampling, output_config=output, client_id=7)
        running.enqueue_request(request)
        (response,) = running.await_responses()
        assert response.client_id == 7
        assert response.error_msg == "Input token ids out of range"
        running.shutdown()
        for call in (running.await_responses, lambda: running.enqueue_request(request), running.shutdown):
            with pytest.raises(RuntimeError, match="was shut down"):
                call()
