"""Whether the tokenizers and the engine of a release belong together: mixed, they would answer garbage."""

from collections.abc import Iterator

from trireme_runtime.manifest import sha256_of

from ..checks import Finding
from .subject import Subject, fails, note, ok

_SPECIAL = ("bos", "eos", "pad")
_REBUILD = "trireme build RECIPE, with publish.tokenizer = true, publishes versions that fit"


def tokenizers(subject: Subject) -> Iterator[Finding]:
    """The models have one vocabulary and one set of special ids; prompts are made as for the engine's checkpoint."""
    llm = subject.llm
    engine = subject.label(llm.engine)
    folder = subject.tokenizer_folder(llm.engine)
    own = subject.tokenizer(llm.engine)
    problems = []
    for model in (llm.preprocessing, llm.postprocessing):
        other, name = subject.tokenizer(model), subject.label(model)
        digests = [sha256_of(path / "tokenizer.json") for path in (subject.tokenizer_folder(model), folder)]
        if digests[0] != digests[1]:
            problems.append(
                f"{name} and {engine} have different ones: tokenizer.json has the SHA-256 {digests[0][:12]} and "
                f"{digests[1][:12]}"
            )
        for special in _SPECIAL:
            ids = [getattr(tokenizer, f"{special}_token_id") for tokenizer in (other, own)]
            if ids[0] != ids[1]:
                problems.append(f"the {special} id is {ids[0]} in {name}, and {ids[1]} in {engine}")
    if subject.tokenizer(llm.preprocessing).chat_template != own.chat_template:
        problems.append(
            f"{subject.label(llm.preprocessing)} has another chat template than {engine}, whose checkpoint's it is"
        )
    for problem in problems:
        yield fails("tokenizer", problem, _REBUILD)
    if not problems:
        template = "a chat template" if own.chat_template else "no chat template: messages are refused"
        yield ok("tokenizer", f"one in {', '.join(map(subject.label, llm.steps))}, with {template}")


def vocabulary(subject: Subject) -> Iterator[Finding]:
    """The engine knows every id that the tokenizer gives."""
    facts = subject.facts
    model = subject.llm.preprocessing
    highest = max(subject.tokenizer(model).get_vocab().values())
    if highest >= facts.vocab_size:
        yield fails(
            "vocabulary",
            f"{subject.label(model)} has ids up to {highest}; the engine knows {facts.vocab_size} ({facts.path})",
            _REBUILD,
        )
    else:
        yield ok("vocabulary", f"ids up to {highest}, of the {facts.vocab_size} that the engine knows")


def special_ids(subject: Subject) -> Iterator[Finding]:
    """The ids that begin, end and fill up a sequence are those that the model was made with."""
    facts, own = subject.facts, subject.tokenizer(subject.llm.engine)
    good = True
    for name in _SPECIAL:
        theirs, ours = facts.special[name], getattr(own, f"{name}_token_id")
        if not theirs or ours is None or ours in theirs:
            continue
        told = f"the {name} id of the tokenizer is {ours}; {facts.path} says {', '.join(map(str, sorted(theirs)))}"
        if name == "pad":
            # No sequence is ever filled up.
            yield note("special ids", told)
        else:
            good = False
            yield fails("special ids", told, _REBUILD)
    if own.eos_token_id is None:
        yield note("special ids", "the tokenizer has no eos id: every answer is as long as max_tokens")
    elif good:
        yield ok("special ids", ", ".join(f"{name} {getattr(own, f'{name}_token_id')}" for name in _SPECIAL))


def context(subject: Subject) -> Iterator[Finding]:
    """Prompts are refused beyond the engine's context, neither earlier nor later."""
    facts, model = subject.facts, subject.llm.preprocessing
    longest = int(subject.tokenizer(model).model_max_length)
    told = f"{subject.label(model)} takes prompts of {longest} tokens; the engine has {facts.context_tokens}"
    if longest == facts.context_tokens:
        yield ok("context", f"{longest} tokens")
    elif longest < facts.context_tokens or facts.built is not None:
        # trtllm-build may be told to make less of a model than it is; the engine refuses what is longer.
        yield note("context", told)
    else:
        yield fails("context", f"{told} ({facts.path})", _REBUILD)
