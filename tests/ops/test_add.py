"""Several LLMs in one server: `trireme add` and `trireme remove`."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from raw import Refusal, ask, connected, read
from support import CHECKPOINT, ROOT, TRIREME, start_server, stop_server
from tokenizers_built import metaspace_bpe
from trireme_build.random_checkpoint import write_checkpoint
from trireme_runtime.manifest import read_manifest


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the repositories."""
    for name in ("model_repository", "ensembles"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(CHECKPOINT, tmp_path / CHECKPOINT.relative_to(ROOT))
    return tmp_path


def trireme(checkout: Path, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    env = {"TRIREME_ROOT": str(checkout), "PATH": "/usr/bin:/bin"}
    return subprocess.run([TRIREME, *arguments], capture_output=True, text=True, env=env, timeout=60)


def folders(checkout: Path) -> set[str]:
    return {path.name for name in ("model_repository", "ensembles") for path in (checkout / name).iterdir()}


def test_two_llms_serve_at_once_and_one_is_removed_again(checkout: Path) -> None:
    before = folders(checkout)
    write_checkpoint(checkout / "tiny", metaspace_bpe())
    spec = checkout / "tiny.toml"
    spec.write_text('name = "tiny"\ncheckpoint = "tiny"\nweights = "int8"\n[settings]\nmax_num_sequences = 8\n')
    added = trireme(checkout, "add", "--spec", spec)
    assert added.returncode == 0, added.stderr
    assert folders(checkout) - before == {
        *(f"tiny{suffix}" for suffix in ("", "_llmapi", "_unary", "_preprocessing", "_tensorrt_llm", "_postprocessing"))
    }
    code = checkout / "model_repository" / "tiny_preprocessing" / "1" / "model.py"
    assert len(code.read_text().splitlines()) < 10

    server = start_server(checkout, env={"TRIREME_ROOT": str(checkout)})
    try:
        with connected(server.grpc) as raw:
            calls = []
            for _ in range(8):
                calls.append(raw.start("ensemble", text_input=ask("Reverse: stream"), max_tokens=20, stream=True))
                calls.append(raw.start("tiny", text_input="hello", max_tokens=20, ignore_eos=True, stream=True))
            answers = ["".join(piece["text_output"][0] for piece in read(call)) for call in calls]
            assert set(answers[::2]) == {"maerts"}
            engine = read_manifest(checkout / "model_repository" / "tiny_tensorrt_llm" / "1" / "engine")
            assert engine["quantization"] == "int8"
            (tiny,) = set(answers[1::2])
            assert tiny
            unary = raw.unary("tiny_unary", text_input="hello", max_tokens=20, ignore_eos=True)
            assert unary["text_output"][0] == tiny
            theirs = raw.one("tiny_llmapi", text_input="hello", sampling_param_max_tokens=600)
            assert theirs["finish_reason"][0] in ("stop", "length")
            guide = {"guided_decoding_guide_type": "regex", "guided_decoding_guide": "[a-c]{3}-你?[0-9]{2}"}
            assert re.fullmatch(
                guide["guided_decoding_guide"],
                raw.one("tiny", text_input="x", max_tokens=30, **guide)["text_output"][0],
            )
            with pytest.raises(Refusal, match="num_return_sequences is 9; at most 8"):
                raw.one("tiny", text_input="x", max_tokens=4, num_return_sequences=9)
    finally:
        stop_server(server)

    removed = trireme(checkout, "remove", "tiny")
    assert removed.returncode == 0, removed.stderr
    assert folders(checkout) == before


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../evil", "cannot be used"),
        ("/tmp/evil", "cannot be used"),
        ("", "are needed"),
        ("a/b", "cannot be used"),
        ("Tiny", "cannot be used"),
        ("1tiny", "cannot be used"),
        ("x" * 41, "cannot be used"),
        ("a.b", "cannot be used"),
        ("ensemble", "'ensemble' is taken: "),
        ("llmapi", "'llmapi' is taken: ensembles/llmapi is there"),
        ("preprocessing", "'preprocessing' is taken: "),
    ],
)
def test_names_that_collide_or_escape_are_refused(checkout: Path, name: str, words: str) -> None:
    before = folders(checkout)
    done = trireme(checkout, "add", name, "--checkpoint", checkout / CHECKPOINT.relative_to(ROOT))
    assert done.returncode == 1
    assert words in done.stderr
    assert folders(checkout) == before


def test_a_name_is_taken_once_it_is_added(checkout: Path) -> None:
    checkpoint = checkout / CHECKPOINT.relative_to(ROOT)
    assert trireme(checkout, "add", "second", "--checkpoint", checkpoint).returncode == 0
    assert "is taken" in trireme(checkout, "add", "second", "--checkpoint", checkpoint).stderr
    # One name inside another's family collides too.
    assert trireme(checkout, "add", "second_unary", "--checkpoint", checkpoint).returncode == 1


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("rm -r checkpoint", "no such folder"),
        ("rm checkpoint/config.json", "config.json: not found"),
        ("rm checkpoint/model.safetensors", "only safetensors are read"),
        ("rm checkpoint/tokenizer*", "holds no tokenizer.json"),
        ("head -c 1000 checkpoint/model.safetensors > x; mv x checkpoint/model.safetensors", "cannot be served"),
        ("sed -i s/mlp.up_proj/mlp.up_porj/ checkpoint/model.safetensors", "mlp.up_proj.weight is missing"),
        ("sed -i s/LlamaForCausalLM/GPT2LMHeadModel/ checkpoint/config.json", "GPT2LMHeadModel"),
        (
            'sed -i "s/\\"num_attention_heads\\": 4/\\"num_attention_heads\\": 0/" checkpoint/config.json',
            "num_attention_heads is 0",
        ),
        (
            'sed -i "s/\\"num_hidden_layers\\": 2/\\"num_hidden_layers\\": 1/" checkpoint/config.json',
            "is not part of the model",
        ),
        ('sed -i "s/\\"hidden_size\\": 64/\\"hidden_size\\": 32/" checkpoint/config.json', "config.json says"),
        ('sed -i "s/\\"rope_theta\\": 10000.0/\\"rope_theta\\": \\"x\\"/" checkpoint/config.json', "rope_theta is 'x'"),
        ("echo {} > checkpoint/tokenizer.json", "cannot be read"),
        ("echo '{% if %}' > checkpoint/chat_template.jinja", "chat template"),
        (
            'sed -i "s/\\"vocab_size\\": [0-9]*/\\"vocab_size\\": 20/" checkpoint/config.json',
            "config.json says [20, 64]",
        ),
    ],
)
def test_a_checkpoint_that_cannot_be_served_is_refused_and_leaves_nothing(
    checkout: Path, damage: str, words: str
) -> None:
    write_checkpoint(checkout / "checkpoint", metaspace_bpe())
    subprocess.run(["bash", "-c", damage], cwd=checkout, check=True)
    before = folders(checkout)
    done = trireme(checkout, "add", "tiny", "--checkpoint", checkout / "checkpoint")
    assert done.returncode == 1
    assert words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert folders(checkout) == before
    assert not list((checkout / ".trireme").glob("family-*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "max_num_sequences=none"], "max_num_sequences has the value 'none'"),
        (["--set", "max_num_sequences=99999999999999999999"], "a whole number from 1 to 1024"),
        (["--set", "max_sequences=3"], "'max_sequences' is unknown"),
        (["--set", "enable_kv_cache_reuse=1"], "must be true or false"),
        (["--weights", "int3"], "weights 'int3' are unknown; known are f32, int8, int4"),
    ],
)
def test_settings_are_checked(checkout: Path, arguments: list[str], words: str) -> None:
    done = trireme(checkout, "add", "x", "--checkpoint", checkout / CHECKPOINT.relative_to(ROOT), *arguments)
    assert done.returncode == 1
    assert words in done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nonsense", "cannot be read"),
        ('name = "x"', "checkpoint is None"),
        ('name = "x"\ncheckpoint = "y"\ncheckpiont = 1', "'checkpiont' is unknown"),
        ('name = 3\ncheckpoint = "y"', "name is 3"),
        ('name = "x"\ncheckpoint = "y"\nweights = 8', "weights is 8"),
    ],
)
def test_spec_files_are_checked(checkout: Path, text: str, words: str) -> None:
    (checkout / "spec.toml").write_text(text)
    done = trireme(checkout, "add", "--spec", checkout / "spec.toml")
    assert done.returncode == 1
    assert words in done.stderr


@pytest.mark.parametrize("name", ["ensemble", "nobody", "../x", ""])
def test_only_what_was_added_is_removed(checkout: Path, name: str) -> None:
    before = folders(checkout)
    done = trireme(checkout, "remove", name)
    assert done.returncode == 1
    assert "there is no added family" in done.stderr
    assert folders(checkout) == before
