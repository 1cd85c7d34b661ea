"""The committed repositories: valid as they stand, and as the contract says."""

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from support import CHECKPOINT, ROOT
from trireme_runtime.contract import SIGNATURES, Tensor
from trireme_runtime.manifest import verify_manifest

CONFIGS = sorted([*ROOT.glob("model_repository/*/config.pbtxt"), *ROOT.glob("ensembles/*/config.pbtxt")])
BY_NAME = {path.parent.name: path for path in CONFIGS}


def parse(path: Path) -> Any:
    return text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())


def signature(tensors: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
    types = model_config_pb2.DataType
    return {t.name: (types.Name(t.data_type).removeprefix("TYPE_"), tuple(t.dims)) for t in tensors}


def expected(tensors: tuple[Tensor, ...]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {tensor.name: (tensor.dtype, tensor.dims) for tensor in tensors}


def test_every_model_of_the_contract_is_there() -> None:
    assert BY_NAME.keys() == SIGNATURES.keys()


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_a_config_has_the_contracts_tensors(name: str) -> None:
    config = parse(BY_NAME[name])
    inputs, outputs = SIGNATURES[name]
    assert config.name == name
    assert signature(config.input) == expected(inputs)
    assert signature(config.output) == expected(outputs)


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_a_committed_config_holds_no_placeholder(name: str) -> None:
    assert "${" not in BY_NAME[name].read_text(encoding="utf-8")


def fits(one: tuple[str, tuple[int, ...]], other: tuple[str, tuple[int, ...]]) -> bool:
    """The same dtype and number of dims; a dim of -1 fits any."""
    dims = zip(one[1], other[1], strict=True)
    return one[0] == other[0] and all(a == b or -1 in (a, b) for a, b in dims)


@pytest.mark.parametrize("name", sorted(path.parent.name for path in ROOT.glob("ensembles/*/config.pbtxt")))
def test_the_edges_of_an_ensemble_fit(name: str) -> None:
    """Each edge joins tensors of one dtype and dims; no ensemble input and no step's output goes nowhere unnoticed."""
    ensemble = parse(BY_NAME[name])
    edges: dict[str, tuple[str, tuple[int, ...]]] = dict(signature(ensemble.input))
    used: set[str] = set()
    for step in ensemble.ensemble_scheduling.step:
        model = parse(BY_NAME[step.model_name])
        inputs, outputs = signature(model.input), signature(model.output)
        for tensor, edge in step.input_map.items():
            assert fits(inputs[tensor], edges[edge]), f"{step.model_name}.{tensor} <- {edge}"
            used.add(edge)
        for tensor, edge in step.output_map.items():
            assert edge not in edges
            edges[edge] = outputs[tensor]
        required = {tensor.name for tensor in model.input if not tensor.optional}
        assert required <= step.input_map.keys()
    for tensor, kind in signature(ensemble.output).items():
        assert fits(edges[tensor], kind), tensor
        used.add(tensor)
    assert used == edges.keys()


@pytest.mark.parametrize("name", sorted(path.parent.name for path in ROOT.glob("ensembles/*/config.pbtxt")))
def test_sampling_and_stop_tensors_stay_out_of_the_batched_step(name: str) -> None:
    (step,) = (s for s in parse(BY_NAME[name]).ensemble_scheduling.step if s.model_name == "preprocessing")
    assert parse(BY_NAME["preprocessing"]).HasField("dynamic_batching")
    assert step.input_map.keys() <= {"QUERY", "MESSAGES", "CHAT_TEMPLATE_KWARGS", "REQUEST_OUTPUT_LEN", "PRIORITY"}


def test_chunks_of_a_stream_cannot_overtake_each_other_or_vanish() -> None:
    """One instance keeps their order; without dynamic batching, a cancelled request still arrives."""
    config = parse(BY_NAME["postprocessing"])
    assert not config.HasField("dynamic_batching")
    assert sum(group.count for group in config.instance_group) == 1


@pytest.mark.parametrize("model", ["preprocessing", "tensorrt_llm", "postprocessing", "ensemble_unary"])
def test_version_1_is_what_its_manifest_says(model: str) -> None:
    manifest = verify_manifest(ROOT / "model_repository" / model / "1")
    expected = {"model.py"} if model == "ensemble_unary" else {"model.py", "tokenizer/tokenizer.json"}
    assert expected <= manifest["files"].keys()


@pytest.mark.parametrize("model", ["preprocessing", "tensorrt_llm", "postprocessing"])
def test_every_model_has_the_checkpoints_tokenizer(model: str) -> None:
    for path in (ROOT / "model_repository" / model / "1" / "tokenizer").iterdir():
        assert path.read_bytes() == (CHECKPOINT / path.name).read_bytes()


def test_what_is_committed_stays_under_25_mb() -> None:
    import subprocess

    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    paths = [ROOT / name.decode() for name in listed.split(b"\0") if name]
    assert sum(path.stat().st_size for path in paths if path.is_file()) < 25_000_000
