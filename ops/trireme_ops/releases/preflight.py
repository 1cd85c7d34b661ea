"""Whether a release can go live, judged by its files alone: nothing is loaded.

Each finding names the thing, its value and what is allowed. FAIL: it would not load, or would answer wrongly. NOTE: it
works, within limits that an operator should know.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from google.protobuf.text_format import ParseError
from tritonclient.grpc import model_config_pb2

from trireme_runtime.checkout import version_folders
from trireme_runtime.contract import SIGNATURES, Tensor
from trireme_runtime.engines import HONOURED
from trireme_runtime.manifest import ManifestError
from trireme_runtime.requests import SamplingDefaults, check_sampling_defaults
from trireme_runtime.settings import SAMPLING_DEFAULTS, WHOLE_SAMPLING_DEFAULTS
from trireme_runtime.versions import key_of_environment, verify_version

from ..checks import Finding, Status
from ..errors import OperatorError
from ..family import SETTINGS, check_setting
from ..layout import Layout, engine_of
from . import memory
from .fit import context, special_ids, tokenizers, vocabulary
from .llm import find_llm
from .memory import MEBIBYTE, Machine
from .release import MAX_INSTANCES, Release, manifest_digest
from .smoke import SmokeItem
from .subject import Subject, fails, note, ok

_TRITON_TYPES = model_config_pb2.DataType


def preflight(
    layout: Layout, release: Release, machine: Machine | None = None, live: Release | None = None
) -> list[Finding]:
    """Look whether a server of this checkout could put a release live.

    machine: the memory that is free; of this one, and now, where it is not given. live: the release that runs, whose
    KV cache may still grow while both are loaded. The findings come in a fixed order; no problem of a release raises.
    """
    try:
        llm = find_llm(layout, release.llm)
    except OperatorError as error:
        return [fails("llm", str(error), "trireme add NAME, or a release of another LLM")]
    machine = machine or Machine.here()
    subject = Subject(layout, release, llm, machine.gpus[0].sm if machine.gpus else None)
    findings = _guarded("versions", lambda: versions(subject))
    if any(finding.status is Status.FAIL for finding in findings):
        # What the others would read is not what will be loaded.
        return findings
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "engine": lambda: engine(subject),
        "tokenizer": lambda: tokenizers(subject),
        "vocabulary": lambda: vocabulary(subject),
        "special ids": lambda: special_ids(subject),
        "context": lambda: context(subject),
        "settings": lambda: settings(subject),
        "limits": lambda: limits(subject),
        "instances": lambda: instances(subject),
        "sampling": lambda: sampling(subject),
        "contract": lambda: contract(subject),
        "memory": lambda: enough_memory(subject, machine, live),
        "smoke set": lambda: smoke(subject),
    }
    for name, check in checks.items():
        findings += _guarded(name, check)
    return findings


def _guarded(name: str, check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """What a check finds; that it cannot read what it needs is a finding, too."""
    findings: list[Finding] = []
    try:
        for finding in check():
            findings.append(finding)
    except (OperatorError, ManifestError, ParseError, OSError, ValueError, TypeError, KeyError) as error:
        findings.append(fails(name, str(error) or type(error).__name__, "publish a version that can be read"))
    return findings


# Versions ---------------------------------------------------------------------------------------------------------


def versions(subject: Subject) -> Iterator[Finding]:
    """The versions are there, are the pinned ones, hold what their manifests say, and are signed where a key is set."""
    release, key = subject.release, key_of_environment()
    for model in sorted(release.versions.keys() - set(subject.llm.models)):
        yield fails(model, f"no model of {subject.llm.name}; its models are {', '.join(subject.llm.models)}")
    for model in subject.llm.models:
        if model not in release.versions:
            yield fails(model, "no version of it is pinned", "trireme release create")
            continue
        yield _version(subject, model, key)


def _version(subject: Subject, model: str, key: Path | None) -> Finding:
    folder, release = subject.folder(model), subject.release
    name = f"{model}/{folder.name}"
    if not folder.is_dir():
        there = ", ".join(path.name for path in version_folders(folder.parent)) or "none"
        return fails(name, f"no such version; there are {there}", "publish it here, or create a release without it")
    digest, pinned = manifest_digest(folder), release.manifests.get(model)
    if digest != pinned:
        return fails(
            name,
            f"is not the version that is pinned: its manifest has the SHA-256 {digest[:12]}, pinned is "
            f"{(pinned or 'none')[:12]}",
            "put the pinned one back, or create a release of this one",
        )
    try:
        manifest = verify_version(folder, key)
    except ManifestError as error:
        return fails(name, str(error), "put the version back as it was published, and signed where it must be")
    if manifest.get("model", model) != model:
        return fails(name, f"is a version of {manifest['model']}, by its manifest", "publish it as one of this model")
    signed = f", signed for {key}" if key is not None else ""
    return ok(name, f"{len(manifest['files'])} files as the manifest says, the pinned one{signed}")


# Configuration ----------------------------------------------------------------------------------------------------


def engine(subject: Subject) -> Iterator[Finding]:
    """The engine that the version is for is the one that the model runs, and its folder can be read."""
    llm = subject.llm
    name = f"{llm.engine}/{subject.release.versions[llm.engine]}"
    configured, built_for = subject.parameters.get("engine", ""), engine_of(subject.folder(llm.engine))
    if configured not in HONOURED:
        yield fails(name, f"config.pbtxt has the engine {configured!r}; known are {', '.join(HONOURED)}")
    elif configured != built_for:
        yield fails(
            name,
            f"is for the engine {built_for}, and config.pbtxt runs {configured}",
            "trireme render PROFILE DIR makes a checkout for another engine",
        )
    else:
        facts = subject.facts
        yield ok(name, f"for {built_for}, {facts.vocab_size} ids, {facts.context_tokens} tokens of context")


def settings(subject: Subject) -> Iterator[Finding]:
    """Every setting is known and within its limits, those of config.pbtxt included."""
    release, parameters, good = subject.release, subject.parameters, True
    for key in release.settings:
        if key not in SETTINGS:
            good = False
            yield fails("settings", f"{key} cannot be set; known are {', '.join(SETTINGS)}")
        elif key not in parameters:
            good = False
            yield fails("settings", f"{key} cannot be set: config.pbtxt of {subject.llm.engine} has no such parameter")
    for key in SETTINGS:
        if key not in parameters:
            continue
        try:
            check_setting(key, subject.setting(key))
        except OperatorError as error:
            good = False
            yield fails("settings", str(error), f"trireme release create --set settings.{key}=VALUE")
    if good:
        told = ", ".join(f"{key} {value}" for key, value in release.settings.items())
        yield ok("settings", told or "those of config.pbtxt")


def limits(subject: Subject) -> Iterator[Finding]:
    """What the settings allow is what the engine can do, and the KV cache holds a whole context."""
    facts, given = subject.facts, subject.release.settings
    tokens, sequences = subject.whole("max_tokens_in_paged_kv_cache"), subject.whole("max_num_sequences")
    found = []
    if facts.built is not None:
        for key, highest in (
            ("max_num_sequences", facts.built.max_batch_size),
            ("max_num_tokens", facts.built.max_num_tokens),
        ):
            if subject.whole(key) > highest:
                told = f"{key} is {subject.whole(key)}, and the engine was built for at most {highest}"
                make = fails if key in given else note
                found.append(make("limits", told, f"trireme release create --set settings.{key}={highest}"))
        if facts.built.world_size != 1:
            found.append(fails("limits", f"the engine was built for {facts.built.world_size} GPUs; one is served"))
    room = tokens // facts.block_tokens * facts.block_tokens
    if room < facts.context_tokens:
        found.append(
            note(
                "limits",
                f"max_tokens_in_paged_kv_cache is {tokens}, less than one context of {facts.context_tokens} tokens: "
                "longer requests are refused",
                f"trireme release create --set settings.max_tokens_in_paged_kv_cache={facts.context_tokens}",
            )
        )
    if sequences * facts.block_tokens > room:
        found.append(
            note(
                "limits",
                f"max_num_sequences is {sequences}, and the KV cache has {room // facts.block_tokens} blocks of "
                f"{facts.block_tokens} tokens, less than one each",
                "raise max_tokens_in_paged_kv_cache, or lower max_num_sequences",
            )
        )
    if subject.whole("max_queue_tokens") < facts.context_tokens:
        found.append(
            note(
                "limits",
                f"max_queue_tokens is {subject.whole('max_queue_tokens')}, less than one context of "
                f"{facts.context_tokens} tokens: a request that long never waits",
                f"trireme release create --set settings.max_queue_tokens={facts.context_tokens}",
            )
        )
    yield from found
    if not found:
        yield ok("limits", f"{sequences} sequences, {tokens} tokens of KV cache, within what the engine can do")


def instances(subject: Subject) -> Iterator[Finding]:
    """Preprocessing alone may have several; chunks of a stream would overtake each other elsewhere."""
    llm, good = subject.llm, True
    for model, count in subject.release.instances.items():
        highest = MAX_INSTANCES if model == llm.preprocessing else 1
        if model not in llm.steps:
            good = False
            yield fails("instances", f"{model} cannot have a count; {llm.preprocessing} can")
        elif not 1 <= count <= highest:
            good = False
            allowed = f"1 to {highest}" if highest > 1 else "1"
            yield fails("instances", f"{model} has {count}; allowed is {allowed}")
    if good:
        yield ok("instances", f"{subject.instances} of {llm.preprocessing}, 1 of each other")


def sampling(subject: Subject) -> Iterator[Finding]:
    """The defaults are in range, and the engine honours them."""
    given: dict[str, float] = {}
    for key, value in subject.release.sampling.items():
        if key not in SAMPLING_DEFAULTS:
            yield fails("sampling", f"{key} has no default; known are {', '.join(SAMPLING_DEFAULTS)}")
            continue
        lowest, highest = SAMPLING_DEFAULTS[key]
        whole = key in WHOLE_SAMPLING_DEFAULTS
        try:
            number = int(value) if whole else float(value)
        except ValueError:
            number = lowest - 1
        if lowest <= number <= highest:
            given[key] = number
        else:
            kind = "a whole number from " if whole else ""
            yield fails("sampling", f"{key} is {value[:40]!r}; allowed is {kind}{lowest:g} to {highest:g}")
    name = subject.parameters.get("engine", "")
    try:
        check_sampling_defaults(SamplingDefaults(**given), HONOURED.get(name, frozenset()), name)  # type: ignore[arg-type]
    except ValueError as error:
        yield fails("sampling", str(error), "leave it out, or take another engine")
    else:
        if len(given) == len(subject.release.sampling):
            told = ", ".join(f"{key} {value:g}" for key, value in given.items())
            yield ok("sampling", told or "greedy where a client sends nothing")


def contract(subject: Subject) -> Iterator[Finding]:
    """The models and ensembles take and give what clients and the steps of the ensembles expect."""
    llm, good = subject.llm, True
    models, ensembles = subject.layout.repositories
    roles = {
        llm.preprocessing: "preprocessing",
        llm.engine: "tensorrt_llm",
        llm.postprocessing: "postprocessing",
        llm.unary: "ensemble_unary",
        llm.name: "ensemble",
        llm.llmapi: "llmapi",
    }
    for model, role in roles.items():
        folder = (ensembles if model in llm.ensembles else models) / model
        config = subject.config(folder)
        for kind, tensors, expected in (
            ("input", config.input, SIGNATURES[role][0]),
            ("output", config.output, SIGNATURES[role][1]),
        ):
            for problem in _unlike(kind, {tensor.name: tensor for tensor in tensors}, expected):
                good = False
                path = (folder / "config.pbtxt").relative_to(subject.layout.root)
                yield fails("contract", f"{path}: {problem}", f"git checkout -- {path}")
    if good:
        yield ok("contract", f"inputs and outputs of {len(roles)} models and ensembles")


def _unlike(kind: str, found: dict[str, model_config_pb2.ModelInput], expected: tuple[Tensor, ...]) -> Iterator[str]:
    for tensor in expected:
        if tensor.name not in found:
            yield f"the {kind} {tensor.name} is missing"
            continue
        theirs = found[tensor.name]
        dtype = _TRITON_TYPES.Name(theirs.data_type).removeprefix("TYPE_")
        if (dtype, tuple(theirs.dims)) != (tensor.dtype, tensor.dims):
            yield (
                f"the {kind} {tensor.name} is {dtype} {list(theirs.dims)}; the contract has {tensor.dtype} "
                f"{list(tensor.dims)}"
            )
    for name in sorted(found.keys() - {tensor.name for tensor in expected}):
        yield f"the {kind} {name} is none of the contract's"


# Memory and proof -------------------------------------------------------------------------------------------------


def _need(subject: Subject) -> memory.Need:
    return memory.need(
        subject.facts,
        [subject.tokenizer_folder(model) / "tokenizer.json" for model in subject.llm.steps],
        subject.instances,
        subject.whole("max_tokens_in_paged_kv_cache"),
        subject.whole("max_num_tokens"),
    )


def enough_memory(subject: Subject, machine: Machine, live: Release | None) -> Iterator[Finding]:
    """What the release needs fits beside what runs; see `memory` for what is counted."""
    needed = _need(subject)
    parts = [("weights", needed.weights), ("KV cache", needed.kv_cache), ("one step", needed.step)]
    told = ", ".join(f"{name} {_mib(size)}" for name, size in parts if size)
    if needed.is_on_gpu:
        yield _gpu_memory(needed, machine, told)
        told = ""
    text = (
        f"{_mib(needed.host)} needed ({told + ', ' if told else ''}processes {_mib(needed.processes)}), "
        f"{_mib(machine.free)} free ({machine.limited_by})"
    )
    lower = "lower settings.max_tokens_in_paged_kv_cache, free some memory, or free the release before"
    if needed.host > machine.free:
        yield fails("memory", text, lower)
        return
    grows = 0 if live is None else _kv_cache_of(subject, live)
    if needed.host + grows > machine.free:
        yield note("memory", f"{text}; the KV cache of {live.name if live else ''} may grow by {_mib(grows)}", lower)
    else:
        yield note("memory", text)


def _kv_cache_of(subject: Subject, live: Release) -> int:
    """The KV cache of what runs, in bytes of the machine's memory; 0 where its files do not say any more."""
    other = Subject(subject.layout, live, subject.llm, None)
    try:
        return 0 if other.facts.is_on_gpu else _need(other).kv_cache
    except (OperatorError, OSError, ValueError, KeyError):
        # What runs is no reason against what is to take its place.
        return 0


def _gpu_memory(needed: memory.Need, machine: Machine, told: str) -> Finding:
    if not machine.gpus:
        return note("GPU memory", f"{_mib(needed.gpu)} needed ({told}); nvidia-smi shows no GPU here")
    gpu = machine.gpus[0]
    text = (
        f"{_mib(needed.gpu)} needed ({told}), {_mib(gpu.free)} free on {gpu.name}; what the engine adds is not counted"
    )
    if needed.gpu > gpu.free:
        return fails("GPU memory", text, "lower settings.max_tokens_in_paged_kv_cache, or free the release before")
    return note("GPU memory", text)


def _mib(size: int) -> str:
    return f"{size / MEBIBYTE:.0f} MiB"


def smoke(subject: Subject) -> Iterator[Finding]:
    """There is a set of questions to prove the release by, and each can be asked."""
    items = []
    for number, document in enumerate(subject.release.smoke, 1):
        try:
            items.append(SmokeItem.from_json(document))
        except OperatorError as error:
            yield fails("smoke set", f"item {number}: {error}", "trireme release create --smoke FILE")
    if not subject.release.smoke:
        yield note(
            "smoke set", "none: the release is loaded, and nothing shows that it answers rightly", "--smoke FILE"
        )
        return
    tokenizer = subject.tokenizer(subject.llm.preprocessing)
    for number, item in enumerate(items, 1):
        if item.messages is not None and not tokenizer.chat_template:
            yield fails("smoke set", f"item {number} has messages, and the tokenizer has no chat template")
            return
        text = item.prompt if item.prompt is not None else "".join(content for _, content in item.messages or ())
        length = len(tokenizer.encode(text)) + 1
        if length > subject.facts.context_tokens:
            yield fails(
                "smoke set",
                f"item {number}: the prompt has {length - 1} tokens; the context is {subject.facts.context_tokens}",
                "trireme release create --smoke FILE",
            )
            return
    if len(items) == len(subject.release.smoke):
        yield ok("smoke set", f"{len(items)} questions")
