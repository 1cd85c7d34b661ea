"""Models of a release beside those that are served under their own names, in one server."""

import contextlib
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from raw import Raw, Refusal, connected, infer_request, outputs_of, read
from support import ROOT, Server, processes_named, start_server, stop_server, wait_for
from trireme_ops.bench.root import NullModel, copy_repositories, set_parameters, use_null_engine
from trireme_ops.embedded import CONTROL_HEADER
from trireme_ops.layout import Layout
from trireme_ops.processes import session_members
from trireme_ops.releases.graphs import ensemble_config, scoped_config
from trireme_ops.releases.llm import Llm
from trireme_runtime.background import LOADING_NICE, may_return
from trireme_runtime.contract import Code
from trireme_runtime.model_config import read_config
from trireme_runtime.proc import families, threads
from trireme_runtime.shared_state import SHM, BackgroundMark

STEPS_PER_S = 20.0
LLM = Llm.named("ensemble")
RELEASE = "r7.1-b"
ENGINE = f"tensorrt_llm@{RELEASE}"


def add_release(layout: Layout, release: str, settings: dict[str, str] | None = None) -> None:
    """The models of LLM under the names that they have within a release, and its ensemble."""
    models, ensembles = layout.repositories
    for model in LLM.steps:
        folder = models / f"{model}@{release}"
        shutil.copytree(models / model, folder)
        config = scoped_config(read_config(models / model / "config.pbtxt"), LLM, release, {}, None, {})
        (folder / "config.pbtxt").write_text(text_format.MessageToString(config))
    set_parameters(models / f"{LLM.engine}@{release}", settings or {})
    folder = ensembles / f"ensemble@{release}"
    (folder / "1").mkdir(parents=True)
    config = ensemble_config(read_config(ensembles / "ensemble" / "config.pbtxt"), release, public=False)
    (folder / "config.pbtxt").write_text(text_format.MessageToString(config))


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    layout = copy_repositories(Layout(ROOT), tmp_path_factory.mktemp("root"), {})
    tokenizer = ROOT / "model_repository" / "postprocessing" / "1" / "tokenizer"
    use_null_engine(layout, replace(NullModel.of_tokenizer(tokenizer, STEPS_PER_S)))
    add_release(layout, RELEASE)
    # The front that gives one answer each calls the release, and does not know whose generations it has to stop.
    set_parameters(layout.root / "model_repository" / "ensemble_unary", {"ensemble": f"ensemble@{RELEASE}"})
    return layout


@pytest.fixture(scope="module")
def server(layout: Layout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = start_server(tmp_path_factory.mktemp("server"), env={"TRIREME_ROOT": str(layout.root)})
    yield running
    stop_server(running)
    assert not running.regions()


@pytest.fixture
def raw(server: Server) -> Iterator[Raw]:
    with connected(server.grpc) as connection:
        yield connection
    wait_for(lambda: server.metric("trireme_requests_running") == 0)


def served(layout: Layout, model: str) -> Path:
    """The folder of a model as the server sees it: a link in a folder of links."""
    (current,) = (layout.state / "servers").glob("*/current")
    return current.resolve() / model


def control(server: Server, layout: Layout, model: str, what: str = "load") -> tuple[int, str]:
    headers = {CONTROL_HEADER: layout.control_key()}
    url = f"{server.http}/v2/repository/models/{model}/{what}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, b"{}", headers), timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def begin(raw: Raw, model: str, request_id: str) -> Any:
    """A stream that has come to its first ids, and would go on for 50 s."""
    values: dict[str, Any] = {"end_id": -1}
    if model.startswith("ensemble"):
        values |= {"text_input": "x", "max_tokens": 1000, "stream": True}
    else:
        values |= {"input_ids": [1, 7], "input_lengths": 2, "request_output_len": 1000, "streaming": True}
    call = raw.stub.ModelStreamInfer(iter([request_of(model, request_id, **values)]), timeout=120)
    answer = next(call)
    assert not answer.error_message
    return call


def request_of(model: str, request_id: str, **values: Any) -> Any:
    """A request to a model of a release, which has the tensors of the one it is named after."""
    request = infer_request(model.partition("@")[0], request_id, **values)
    request.model_name = model
    return request


def stop(raw: Raw, request_id: str, model: str = "tensorrt_llm") -> list[Any]:
    return list(read(raw.stub.ModelStreamInfer(iter([request_of(model, request_id, stop=True)]), timeout=30)))


def last_reason(call: Any) -> str:
    answers = [outputs_of(answer.infer_response) for answer in call]
    return str([answer["finish_reason"][0] for answer in answers if "finish_reason" in answer][-1])


@pytest.mark.parametrize("running_in", [ENGINE, f"ensemble@{RELEASE}", "tensorrt_llm", "ensemble"])
@pytest.mark.parametrize("asked", ["tensorrt_llm", ENGINE])
def test_stop_reaches_whichever_release_runs_the_request(raw: Raw, running_in: str, asked: str) -> None:
    call = begin(raw, running_in, "mine")
    assert stop(raw, "mine", asked) == []
    assert last_reason(call) == "cancelled"


def test_stop_for_an_id_that_no_release_runs_says_so(raw: Raw) -> None:
    for asked in ("tensorrt_llm", ENGINE):
        with pytest.raises(Refusal, match=r"no request with the id 'nobody' is running") as refused:
            stop(raw, "nobody", asked)
        assert refused.value.code is Code.NOT_FOUND


def test_stop_is_refused_where_another_release_runs_two_of_the_id(server: Server, raw: Raw) -> None:
    with connected(server.grpc) as second:
        calls = [begin(raw, ENGINE, "twice"), begin(second, ENGINE, "twice")]
        wait_for(lambda: server.metric("trireme_requests_running") == 2)
        with pytest.raises(Refusal, match="2 requests with the id 'twice' are running; ids must be unique"):
            stop(raw, "twice")
        for call in calls:
            call.cancel()
        wait_for(lambda: server.metric("trireme_requests_running") == 0)


def test_a_client_that_goes_ends_its_generation_in_its_own_release_alone(server: Server, raw: Raw) -> None:
    def running(release: str) -> float:
        return server.metric("trireme_requests_running", release=release)

    staying, going = begin(raw, "ensemble", "stays"), begin(raw, f"ensemble@{RELEASE}", "goes")
    wait_for(lambda: running("") == running(RELEASE) == 1)
    going.cancel()
    wait_for(lambda: running(RELEASE) == 0)
    assert running("") == 1
    stop(raw, "stays")
    assert last_reason(staying) == "cancelled"


def test_the_unary_front_stops_what_its_client_gave_up_in_the_other_release(server: Server, raw: Raw) -> None:
    def running() -> float:
        return server.metric("trireme_requests_running", release=RELEASE)

    request = infer_request("ensemble_unary", text_input="x", max_tokens=1000, end_id=-1)
    call = raw.stub.ModelInfer.future(request, timeout=60)
    wait_for(lambda: running() == 1)
    call.cancel()
    wait_for(lambda: running() == 0)


def test_metrics_say_which_release_they_are_of(server: Server, raw: Raw) -> None:
    def finished(**labels: str) -> float:
        return server.metric("trireme_requests_finished_total", model="tensorrt_llm", version="1", **labels)

    before = {release: finished(release=release) for release in ("", RELEASE)}
    list(read(raw.stub.ModelStreamInfer(iter([request_of(f"ensemble@{RELEASE}", "", text_input="x", max_tokens=3)]))))
    wait_for(lambda: finished(release=RELEASE) == before[RELEASE] + 1)
    assert finished(release="") == before[""]
    assert server.metric("trireme_engine_up", model=ENGINE) == 0


def nice_values(server: Server, model: str) -> list[int]:
    """Of all threads of a model's stub, and of the processes that it has started."""
    found = []
    for family in families(processes_named(server, f"/{model}/")).values():
        for thread in threads(family):
            with contextlib.suppress(OSError):
                found.append(os.getpriority(os.PRIO_PROCESS, thread))
    return found


@pytest.mark.skipif(not may_return(), reason="this process may not raise its priority again")
def test_what_is_loaded_in_the_background_is_nice_and_serves_as_any_other(server: Server, layout: Layout) -> None:
    mark = BackgroundMark(f"trireme_{server.addresses['pid']}_")
    assert control(server, layout, ENGINE, "unload")[0] == 200
    wait_for(lambda: not nice_values(server, ENGINE))
    mark.make()
    try:
        with ThreadPoolExecutor(1) as executor:
            loading = executor.submit(control, server, layout, ENGINE)
            wait_for(lambda: LOADING_NICE in nice_values(server, ENGINE))
            assert loading.result()[0] == 200
    finally:
        mark.remove()
    assert set(nice_values(server, ENGINE)) == {os.getpriority(os.PRIO_PROCESS, 0)}
    assert len(nice_values(server, ENGINE)) > 8


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"default_top_k": "40"}, "'default_top_k' has the value '40'; the engine null does not honour it"),
        ({"default_top_k": "4.5"}, "'default_top_k' has the value '4.5', not a whole number from 0 to 1000000"),
        ({"default_temperature": "hot"}, "'default_temperature' has the value 'hot', not a number from 0 to 100"),
        ({"default_presence_penalty": "2.5"}, "has the value '2.5', not a number from -2 to 2"),
    ],
)
def test_defaults_that_cannot_hold_are_refused_at_load_and_leave_nothing(
    server: Server, layout: Layout, settings: dict[str, str], words: str
) -> None:
    prefix = f"trireme_{server.addresses['pid']}_"

    def ours() -> set[str]:
        own = (".status", ".queue", ".chunks", ".stop")
        return {path.name for path in SHM.glob(f"{prefix}*") if path.name.endswith(own)}

    before, processes = ours(), len(session_members(server.triton_pid()))
    add_release(layout, "bad", settings)
    link = served(layout, "tensorrt_llm@bad")
    link.symlink_to(layout.root / "model_repository" / link.name)
    try:
        status, body = control(server, layout, "tensorrt_llm@bad")
        assert status == 400, body
        assert words in body
    finally:
        link.unlink()
        for repository in layout.repositories:
            for folder in repository.glob("*@bad"):
                shutil.rmtree(folder)
    assert ours() == before
    wait_for(lambda: len(session_members(server.triton_pid())) == processes)


def test_stop_reaches_what_triton_has_replaced_under_its_name(server: Server, layout: Layout, raw: Raw) -> None:
    """As when the first release goes live: the name is then an ensemble over the release's model."""
    call = begin(raw, "tensorrt_llm", "old")
    folder = served(layout, "tensorrt_llm")
    config = read_config(folder / "config.pbtxt")
    alias = model_config_pb2.ModelConfig(name="tensorrt_llm", platform="ensemble", max_batch_size=config.max_batch_size)
    alias.input.extend(tensor for tensor in config.input if tensor.name != "stream_key")
    alias.output.extend(tensor for tensor in config.output if tensor.name in ("output_ids", "finish_reason"))
    step = alias.ensemble_scheduling.step.add(model_name=ENGINE, model_version=-1)
    for tensor in alias.input:
        step.input_map[tensor.name] = tensor.name
    for tensor in alias.output:
        step.output_map[tensor.name] = tensor.name
    folder.unlink()
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(text_format.MessageToString(alias))
    status, body = control(server, layout, "tensorrt_llm")
    assert status == 200, body
    new = begin(raw, "tensorrt_llm", "new")
    wait_for(lambda: server.metric("trireme_requests_running", release="") == 1)
    assert stop(raw, "old") == []
    assert last_reason(call) == "cancelled"
    assert stop(raw, "new") == []
    assert last_reason(new) == "cancelled"
    with pytest.raises(Refusal, match=r"no request with the id 'old' is running"):
        stop(raw, "old")
