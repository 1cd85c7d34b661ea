"""What keeps a release from going live is found by its files alone, and named."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import releases_built
from engine_folders import config_with, write_engine_folder
from keys import key_pair
from support import ROOT
from trireme_build.publish import make_writable
from trireme_ops.bench.root import set_parameters
from trireme_ops.checks import Finding, Status
from trireme_ops.layout import Layout
from trireme_ops.releases.memory import MEBIBYTE, Gpu, Machine, _group_limits
from trireme_ops.releases.preflight import preflight
from trireme_ops.releases.release import Release, propose
from trireme_runtime.manifest import write_manifest
from trireme_runtime.versions import KEY_VARIABLE, sign

ROOMY = Machine(64 << 30, "MemAvailable")
SMOKE = ({"prompt": "What is 37 + 58?", "expect": "95"},)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return releases_built.checkout(tmp_path_factory.mktemp("original") / "root")


def _copy(source: str, target: str) -> None:
    """Large files are shared: no test writes into one."""
    if Path(source).stat().st_size > MEBIBYTE:
        os.link(source, target)
    else:
        shutil.copy2(source, target)


@pytest.fixture
def layout(original: Layout, tmp_path: Path) -> Layout:
    return Layout(Path(shutil.copytree(original.root, tmp_path / "root", copy_function=_copy)))


def release_of(layout: Layout, **changes: Any) -> Release:
    """The newest versions, with attributes changed."""
    release = propose(layout, "r1", smoke=SMOKE)
    return replace(release, **changes)


def version(layout: Layout, model: str = "tensorrt_llm", number: int = 1) -> Path:
    return layout.root / "model_repository" / model / str(number)


def rewrite(folder: Path, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a JSON file of a version, as if it had been published so."""
    make_writable(folder)
    path = folder / name
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
    for made in (path.parent, folder):
        if (made / "manifest.json").is_file():
            write_manifest(made, json.loads((made / "manifest.json").read_text()))


def found(
    layout: Layout, status: Status, check: str, release: Release | None = None, machine: Machine = ROOMY
) -> Finding:
    """The one finding of a check that is not OK, and no other check fails."""
    findings = preflight(layout, release or release_of(layout), machine)
    failing = [finding for finding in findings if finding.status is Status.FAIL]
    assert all(finding.check == check for finding in failing), failing
    (one,) = [finding for finding in findings if finding.check == check and finding.status is not Status.OK]
    assert one.status is status, one
    return one


def fails(layout: Layout, check: str, release: Release | None = None, machine: Machine = ROOMY) -> str:
    finding = found(layout, Status.FAIL, check, release, machine)
    assert finding.fix
    return finding.detail


def notes(layout: Layout, check: str, release: Release | None = None, machine: Machine = ROOMY) -> str:
    return found(layout, Status.NOTE, check, release, machine).detail


@pytest.mark.parametrize("made", ["first", "permuted", "wrong", "unloadable", "crashing", "slow"])
def test_versions_that_belong_together_pass_however_they_answer(layout: Layout, made: str) -> None:
    versions = getattr(releases_built, made)(layout)
    release = propose(layout, "r1", changes={model: str(number) for model, number in versions.items()}, smoke=SMOKE)
    findings = preflight(layout, release, ROOMY)
    assert [finding.check for finding in findings if finding.status is not Status.OK] == ["memory"]


def test_releases_of_null_engines_pass(layout: Layout) -> None:
    for versions in releases_built.null_pair(layout):
        changes = {model: str(number) for model, number in versions.items()}
        findings = preflight(layout, propose(layout, "r1", changes=changes, smoke=SMOKE), ROOMY)
        assert not [finding for finding in findings if finding.status is Status.FAIL]


def test_an_engine_that_is_still_to_be_made_is_judged_by_its_checkpoint(layout: Layout) -> None:
    shutil.rmtree(version(layout) / "engine")
    assert "needed (weights 19 MiB, KV cache 192 MiB" in notes(layout, "memory")


# Versions


def test_an_llm_that_is_not_there_is_named(layout: Layout) -> None:
    assert "there is no LLM 'tiny'" in fails(layout, "llm", Release("r1", "tiny", {}, {}))


def test_a_version_that_is_not_there_is_named(layout: Layout) -> None:
    release = release_of(layout)
    shutil.rmtree(version(layout, "postprocessing"))
    assert fails(layout, "postprocessing/1", release) == "no such version; there are none"


def test_another_version_of_the_same_number_is_not_the_pinned_one(layout: Layout) -> None:
    release = release_of(layout)
    rewrite(version(layout), "manifest.json", lambda manifest: manifest.update(recipe="another"))
    assert "is not the version that is pinned: its manifest has the SHA-256" in fails(layout, "tensorrt_llm/1", release)


def test_a_version_without_a_pinned_manifest_fails(layout: Layout) -> None:
    release = release_of(layout)
    manifests = {key: value for key, value in release.manifests.items() if key != "tensorrt_llm"}
    assert "pinned is none" in fails(layout, "tensorrt_llm/1", release_of(layout, manifests=manifests))


@pytest.mark.parametrize("name", ["model.py", "engine/openvino_model.bin"])
def test_a_tampered_file_is_named(layout: Layout, name: str) -> None:
    (version(layout) / name).unlink()
    (version(layout) / name).write_bytes(b"other")
    assert f"tensorrt_llm/1/{name}: sha256 is" in fails(layout, "tensorrt_llm/1")


def test_a_version_of_another_model_is_named(layout: Layout) -> None:
    rewrite(version(layout, "preprocessing"), "manifest.json", lambda manifest: manifest.update(model="other"))
    assert fails(layout, "preprocessing/1") == "is a version of other, by its manifest"


def test_models_of_another_llm_are_named(layout: Layout) -> None:
    release = release_of(layout)
    other = release_of(layout, versions={**release.versions, "tiny_preprocessing": 1})
    assert "no model of ensemble; its models are preprocessing" in fails(layout, "tiny_preprocessing", other)


def test_what_is_not_signed_fails_where_a_key_is_set(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, public = key_pair(tmp_path)
    releases_built.wrong(layout)
    engine = version(layout, number=2)
    make_writable(engine)
    for folder in (engine, *(version(layout, model) for model in ("preprocessing", "postprocessing"))):
        sign(folder, private)
    monkeypatch.setenv(KEY_VARIABLE, str(public))
    assert "ensemble_unary/1: is not signed" in fails(layout, "ensemble_unary/1")
    sign(version(layout, "ensemble_unary"), private)
    findings = preflight(layout, release_of(layout), ROOMY)
    assert findings[0].detail.endswith(f"signed for {public}")
    assert all(finding.status is not Status.FAIL for finding in findings)


def test_nothing_else_is_looked_at_when_a_version_is_not_the_pinned_one(layout: Layout) -> None:
    (version(layout) / "model.py").write_text("other")
    assert len(preflight(layout, release_of(layout, sampling={"top_p": "7"}), ROOMY)) == 4


# Engine against tokenizer


@pytest.mark.parametrize("model", ["preprocessing", "postprocessing"])
def test_the_tokenizer_of_another_version_fails(layout: Layout, model: str) -> None:
    versions = {**releases_built.permuted(layout), model: 1}
    changes = {name: str(number) for name, number in versions.items()}
    release = propose(layout, "r1", changes=changes, smoke=SMOKE)
    detail = fails(layout, "tokenizer", release)
    assert f"{model}/1 and tensorrt_llm/2 have different ones: tokenizer.json has the SHA-256" in detail


def test_another_chat_template_fails(layout: Layout) -> None:
    folder = version(layout, "preprocessing")
    (folder / "tokenizer" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    write_manifest(folder, json.loads((folder / "manifest.json").read_text()))
    assert "preprocessing/1 has another chat template than tensorrt_llm/1" in fails(layout, "tokenizer")


def test_special_ids_that_differ_fail(layout: Layout) -> None:
    def change(config: dict[str, Any]) -> None:
        config["eos_token"] = "<|user|>"

    folder = version(layout, "postprocessing")
    rewrite(folder, "tokenizer/special_tokens_map.json", change)
    rewrite(folder, "tokenizer/tokenizer_config.json", change)
    assert fails(layout, "tokenizer") == "the eos id is 4 in postprocessing/1, and 2 in tensorrt_llm/1"


def test_a_tokenizer_that_cannot_be_read_is_a_finding(layout: Layout) -> None:
    for model in ("preprocessing", "tensorrt_llm", "postprocessing"):
        rewrite(version(layout, model), "tokenizer/tokenizer.json", lambda values: values.clear())
    findings = preflight(layout, release_of(layout), ROOMY)
    failing = [finding for finding in findings if finding.status is Status.FAIL]
    assert {finding.check for finding in failing} == {"tokenizer", "vocabulary", "special ids", "context", "smoke set"}
    assert all("cannot be read" in finding.detail for finding in failing)


def engine_config(layout: Layout, **values: Any) -> None:
    rewrite(version(layout), "engine/config.json", lambda config: config.update(values))


def test_an_engine_that_does_not_know_every_id_fails(layout: Layout) -> None:
    engine_config(layout, vocab_size=500)
    assert "preprocessing/1 has ids up to 511; the engine knows 500" in fails(layout, "vocabulary")


@pytest.mark.parametrize(("key", "name"), [("eos_token_id", "eos"), ("bos_token_id", "bos")])
def test_special_ids_that_the_engine_does_not_know_fail(layout: Layout, key: str, name: str) -> None:
    engine_config(layout, **{key: 77})
    rewrite(version(layout), "engine/generation_config.json", lambda values: values.update({key: [77, 78]}))
    assert f"the {name} id of the tokenizer is" in fails(layout, "special ids")
    assert "says 77, 78" in fails(layout, "special ids")


def test_an_end_id_among_several_is_enough(layout: Layout) -> None:
    engine_config(layout, eos_token_id=[99, 2])
    assert not [f for f in preflight(layout, release_of(layout), ROOMY) if f.status is Status.FAIL]


def test_another_pad_id_is_noted(layout: Layout) -> None:
    engine_config(layout, pad_token_id=5)
    rewrite(version(layout), "engine/generation_config.json", lambda values: values.update(pad_token_id=5))
    findings = preflight(layout, release_of(layout), ROOMY)
    (noted,) = [f for f in findings if f.check == "special ids" and f.status is Status.NOTE]
    assert "the pad id of the tokenizer is 0" in noted.detail


def test_prompts_longer_than_the_engines_context_fail(layout: Layout) -> None:
    engine_config(layout, max_position_embeddings=1024)
    assert "preprocessing/1 takes prompts of 2048 tokens; the engine has 1024" in fails(layout, "context")


def test_prompts_that_are_refused_too_early_are_noted(layout: Layout) -> None:
    def change(config: dict[str, Any]) -> None:
        config["model_max_length"] = 512

    rewrite(version(layout, "preprocessing"), "tokenizer/tokenizer_config.json", change)
    assert "preprocessing/1 takes prompts of 512 tokens; the engine has 2048" in notes(layout, "context")


@pytest.mark.parametrize("value", [None, 0, "512"])
def test_an_engine_that_does_not_say_what_it_is_fails_by_key(layout: Layout, value: Any) -> None:
    engine_config(layout, vocab_size=value)
    findings = preflight(layout, release_of(layout), ROOMY)
    failing = [finding for finding in findings if finding.status is Status.FAIL]
    assert failing
    assert all(f"engine/config.json: vocab_size is {value!r}" in finding.detail for finding in failing)


def test_a_version_for_another_engine_fails(layout: Layout) -> None:
    rewrite(version(layout), "manifest.json", lambda manifest: manifest.update(engine="null"))
    assert fails(layout, "tensorrt_llm/1") == "is for the engine null, and config.pbtxt runs openvino"


def test_an_engine_that_nobody_knows_fails(layout: Layout) -> None:
    rewrite(version(layout), "manifest.json", lambda manifest: manifest.update(engine="llama"))
    set_parameters(layout.root / "model_repository" / "tensorrt_llm", {"engine": "llama"})
    findings = preflight(layout, release_of(layout), ROOMY)
    assert "config.pbtxt has the engine 'llama'; known are openvino" in str(findings)


# Settings, instances, sampling


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("max_num_sequences", "5000", "max_num_sequences has the value '5000'; it must be a whole number from 1 to"),
        ("enable_kv_cache_reuse", "yes", "enable_kv_cache_reuse has the value 'yes'; it must be true or false"),
        ("engine", "null", "engine cannot be set; known are"),
        ("colour", "red", "colour cannot be set; known are"),
        ("max_in_flight", "7", "max_in_flight cannot be set: config.pbtxt of tensorrt_llm has no such parameter"),
    ],
)
def test_settings_that_cannot_be_fail(layout: Layout, key: str, value: str, words: str) -> None:
    assert words in fails(layout, "settings", release_of(layout, settings={key: value}))


def test_a_bad_setting_of_config_pbtxt_fails_too(layout: Layout) -> None:
    set_parameters(layout.root / "model_repository" / "tensorrt_llm", {"kv_cache_overcommit": "0"})
    assert "kv_cache_overcommit has the value '0'" in fails(layout, "settings")


def test_a_cache_smaller_than_one_context_is_noted(layout: Layout) -> None:
    release = release_of(layout, settings={"max_tokens_in_paged_kv_cache": "1024", "max_num_sequences": "4"})
    assert "is 1024, less than one context of 2048 tokens" in notes(layout, "limits", release)


def test_more_sequences_than_blocks_are_noted(layout: Layout) -> None:
    settings = {"max_tokens_in_paged_kv_cache": "2048", "max_num_sequences": "128"}
    assert "has 64 blocks of 32 tokens, less than one each" in notes(
        layout, "limits", release_of(layout, settings=settings)
    )


def test_a_queue_that_holds_no_context_is_noted(layout: Layout) -> None:
    release = release_of(layout, settings={"max_queue_tokens": "100"})
    assert "max_queue_tokens is 100, less than one context" in notes(layout, "limits", release)


@pytest.mark.parametrize(
    ("model", "count", "words"),
    [
        ("preprocessing", 17, "preprocessing has 17; allowed is 1 to 16"),
        ("preprocessing", 0, "preprocessing has 0; allowed is 1 to 16"),
        ("tensorrt_llm", 2, "tensorrt_llm has 2; allowed is 1"),
        ("postprocessing", 2, "postprocessing has 2; allowed is 1"),
        ("ensemble_unary", 1, "ensemble_unary cannot have a count; preprocessing can"),
    ],
)
def test_counts_that_cannot_be_fail(layout: Layout, model: str, count: int, words: str) -> None:
    assert fails(layout, "instances", release_of(layout, instances={model: count})) == words


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("top_p", "1.5", "top_p is '1.5'; allowed is 0 to 1"),
        ("temperature", "warm", "temperature is 'warm'; allowed is 0 to 100"),
        ("temperature", "nan", "temperature is 'nan'; allowed is 0 to 100"),
        ("top_k", "2.5", "top_k is '2.5'; allowed is a whole number from 0"),
        ("seed", "7", "seed has no default; known are temperature"),
    ],
)
def test_sampling_defaults_that_cannot_be_fail(layout: Layout, key: str, value: str, words: str) -> None:
    assert words in fails(layout, "sampling", release_of(layout, sampling={key: value}))


def test_sampling_defaults_that_the_engine_does_not_honour_fail(layout: Layout) -> None:
    releases_built.null_pair(layout)
    release = release_of(layout, sampling={"top_p": "0.9", "temperature": "0.7"})
    assert "the engine null does not honour it" in fails(layout, "sampling", release)


# Contract, memory, smoke set


@pytest.mark.parametrize(
    ("path", "old", "new", "words"),
    [
        ("model_repository/preprocessing", '"QUERY"', '"QUESTION"', "the input QUERY is missing"),
        ("model_repository/tensorrt_llm", "TYPE_INT32, dims: [ -1, -1 ]", "TYPE_INT64, dims: [ -1 ]", "output_ids is"),
        ("ensembles/ensemble", '"stop_reason", data', '"stop_cause", data', "the output stop_reason is missing"),
    ],
)
def test_models_that_do_not_keep_to_the_contract_fail(
    layout: Layout, path: str, old: str, new: str, words: str
) -> None:
    # The copy of tensorrt_llm is printed by protobuf, in another layout.
    text = (ROOT / path / "config.pbtxt").read_text()
    assert old in text
    (layout.root / path / "config.pbtxt").write_text(text.replace(old, new, 1))
    findings = preflight(layout, release_of(layout), ROOMY)
    failing = [finding for finding in findings if finding.status is Status.FAIL]
    assert failing
    assert words in failing[0].detail
    assert all(finding.check == "contract" and f"{path}/config.pbtxt: " in finding.detail for finding in failing)


def test_a_release_that_cannot_fit_into_memory_fails(layout: Layout) -> None:
    detail = fails(layout, "memory", machine=Machine(400 * MEBIBYTE, "MemAvailable"))
    assert "MiB needed (weights 19 MiB, KV cache 192 MiB, one step 39 MiB, processes" in detail
    assert "400 MiB free (MemAvailable)" in detail


def test_more_cache_and_more_processes_need_more(layout: Layout) -> None:
    def needed(release: Release) -> int:
        return int(notes(layout, "memory", release).split(" ", 1)[0])

    usual = needed(release_of(layout))
    settings = {"max_tokens_in_paged_kv_cache": "65536"}
    assert needed(release_of(layout, settings=settings)) == pytest.approx(usual + 192, abs=2)
    assert needed(release_of(layout, instances={"preprocessing": 4})) == pytest.approx(usual + 3 * 46, abs=3)


def test_a_cache_that_may_still_grow_is_noted(layout: Layout) -> None:
    release, machine = release_of(layout), Machine(600 * MEBIBYTE, "MemAvailable")
    (finding,) = [f for f in preflight(layout, release, machine, live=release) if f.check == "memory"]
    assert finding.status is Status.NOTE
    assert "the KV cache of r1 may grow by 192 MiB" in finding.detail


def test_what_runs_and_cannot_be_read_any_more_keeps_nothing_from_taking_its_place(layout: Layout) -> None:
    live = release_of(layout, versions={**release_of(layout).versions, "tensorrt_llm": 7})
    findings = preflight(layout, release_of(layout), ROOMY, live=live)
    assert not [finding for finding in findings if finding.status is Status.FAIL]


def test_control_groups_limit_what_is_free(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("4:memory:/x\n0::/a/b\n")
    for group, highest in (("a/b", "max"), ("a", "1000")):
        folder = tmp_path / "fs" / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{highest}\n")
        (folder / "memory.current").write_text("700\n")
        (folder / "memory.stat").write_text("anon 500\ninactive_file 150\nactive_file 50\n")
    ((free, by),) = _group_limits(tmp_path / "fs", own)
    assert free == 500
    assert "a/memory.max of 1000 bytes" in by
    assert _group_limits(tmp_path / "nowhere", own) == []


def test_this_machine_has_memory() -> None:
    here = Machine.here()
    assert 0 < here.free < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_a_release_without_a_smoke_set_is_noted(layout: Layout) -> None:
    assert notes(layout, "smoke set", release_of(layout, smoke=[])).startswith("none: ")


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"prompt": "a"}, "item 2: expect is missing"),
        ({"expect": "a"}, "item 2: neither of prompt and messages given"),
        ({"prompt": "a", "expect": "b", "colour": "red"}, "item 2: the key colour is unknown"),
        ({"prompt": "a", "expect": "b", "max_tokens": 0}, "item 2: max_tokens is 0"),
        ({"prompt": "zq" * 1500, "expect": "b"}, "item 2: the prompt has 3001 tokens; the context is 2048"),
    ],
)
def test_questions_that_cannot_be_asked_fail(layout: Layout, item: dict[str, Any], words: str) -> None:
    assert words in fails(layout, "smoke set", release_of(layout, smoke=[*SMOKE, item]))


# TensorRT-LLM


GPU = Machine(64 << 30, "MemAvailable", (Gpu("NVIDIA H100", 70 << 30, 90),))


@pytest.fixture
def compiled(layout: Layout) -> Callable[..., Layout]:
    """The layout with an engine folder of TensorRT-LLM as version 1; values: of its config.json."""

    def make(**values: Any) -> Layout:
        values = {"pretrained_config__vocab_size": 512, "build_config__max_seq_len": 2048, **values}
        folder = version(layout)
        shutil.rmtree(folder / "engine")
        write_engine_folder(folder / "engine", config_with(**values))
        write_manifest(folder, {"model": "tensorrt_llm", "version": 1, "engine": "tensorrt_llm_engine"})
        settings = {"engine": "tensorrt_llm_engine", "max_num_sequences": "8"}
        set_parameters(layout.root / "model_repository" / "tensorrt_llm", settings)
        return layout

    return make


def test_an_engine_folder_of_tensorrt_llm_passes(compiled: Callable[..., Layout]) -> None:
    layout = compiled()
    findings = preflight(layout, release_of(layout), GPU)
    assert not [finding for finding in findings if finding.status is Status.FAIL]
    # Six layers of four heads of 64 in FP8: 3072 bytes a token.
    assert "96 MiB needed (weights 0 MiB, KV cache 96 MiB)" in str(findings)


def test_settings_beyond_what_the_engine_was_built_for_fail(compiled: Callable[..., Layout]) -> None:
    layout = compiled()
    release = release_of(layout, settings={"max_num_sequences": "64"})
    detail = "max_num_sequences is 64, and the engine was built for at most 8"
    assert fails(layout, "limits", release, GPU) == detail


def test_limits_of_config_pbtxt_beyond_the_engines_are_noted(compiled: Callable[..., Layout]) -> None:
    layout = compiled(build_config__max_num_tokens=256)
    assert notes(layout, "limits", machine=GPU) == "max_num_tokens is 512, and the engine was built for at most 256"


def test_an_engine_for_two_gpus_fails(compiled: Callable[..., Layout]) -> None:
    layout = compiled(pretrained_config__mapping__tp_size=2)
    shutil.copyfile(version(layout) / "engine" / "rank0.engine", version(layout) / "engine" / "rank1.engine")
    write_manifest(version(layout), json.loads((version(layout) / "manifest.json").read_text()))
    assert fails(layout, "limits", machine=GPU) == "the engine was built for 2 GPUs; one is served"


def test_an_engine_that_this_gpu_cannot_run_fails(compiled: Callable[..., Layout]) -> None:
    layout = compiled(pretrained_config__quantization__quant_algo="NVFP4")
    findings = preflight(layout, release_of(layout), GPU)
    assert "it needs SM 100 or above, and the target is SM 90" in str(findings)
    assert any(finding.status is Status.FAIL for finding in findings)


def test_a_damaged_engine_folder_fails_by_file(compiled: Callable[..., Layout]) -> None:
    layout = compiled(build_config__max_seq_len=None)
    findings = preflight(layout, release_of(layout), GPU)
    assert "build_config.max_seq_len is missing; a whole number above 0 is needed" in str(findings)


def test_a_gpu_without_room_fails(compiled: Callable[..., Layout]) -> None:
    machine = Machine(64 << 30, "MemAvailable", (Gpu("small", 50 * MEBIBYTE, 90),))
    assert "50 MiB free on small" in fails(compiled(), "GPU memory", machine=machine)


def test_no_gpu_is_noted(compiled: Callable[..., Layout]) -> None:
    assert "nvidia-smi shows no GPU here" in notes(compiled(), "GPU memory")


def test_a_checkpoint_for_the_llm_api_says_how_its_cache_is_quantized(layout: Layout) -> None:
    folder = version(layout)
    engine = folder / "engine"
    shutil.rmtree(engine)
    shutil.copytree(ROOT / "build" / "checkpoints" / "trireme-reference", engine)
    quantization = {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}
    (engine / "hf_quant_config.json").write_text(json.dumps(quantization))
    write_manifest(folder, {"model": "tensorrt_llm", "version": 1, "engine": "tensorrt_llm"})
    set_parameters(folder.parent, {"engine": "tensorrt_llm"})
    assert "(weights 9 MiB, KV cache 48 MiB)" in notes(layout, "GPU memory", machine=GPU)
