"""Dockerfiles as lists of instructions, and what of a folder a .dockerignore lets through to them."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

#: What `clean_roots` can carry out; anything else is refused here, so that nothing is skipped there.
KNOWN = frozenset("ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK RUN SHELL STOPSIGNAL USER WORKDIR".split())

_VARIABLE = re.compile(r"\\\$|\$(?:\{(?P<braced>\w+)(?::-(?P<default>[^}]*))?\}|(?P<plain>\w+))")


class DockerfileError(Exception):
    """A line that is not understood."""


@dataclass(frozen=True)
class Instruction:
    """One instruction: `COPY --from=a b c` is keyword COPY, flags {"from": "a"}, text "b c"."""

    keyword: str
    text: str
    flags: Mapping[str, str]
    line: int

    @property
    def words(self) -> list[str]:
        """The text as an exec form's words, or split as a shell does."""
        return self.exec_form or shlex.split(self.text)

    @property
    def exec_form(self) -> list[str] | None:
        """The words of ["a", "b"]; None for what a shell is to read."""
        if not self.text.startswith("["):
            return None
        words = json.loads(self.text)
        assert all(isinstance(word, str) for word in words), self
        return list(words)


@dataclass
class Stage:
    """One FROM and what follows it. base: an image, or the name of an earlier stage."""

    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)


@dataclass
class Dockerfile:
    """arguments: the ARGs before the first FROM, with their defaults."""

    arguments: dict[str, str]
    stages: list[Stage]

    def stage(self, name: str) -> Stage:
        """The stage of this name."""
        return next(stage for stage in self.stages if stage.name == name)


def substitute(text: str, variables: Mapping[str, str]) -> str:
    """`text` with $NAME, ${NAME} and ${NAME:-default} filled in; what is not set is empty, as Docker has it."""

    def value(match: re.Match[str]) -> str:
        if match[0] == r"\$":
            return "$"
        return variables.get(match["braced"] or match["plain"], "") or match["default"] or ""

    return _VARIABLE.sub(value, text)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """(line number, text) of each instruction: continued lines joined, comments and empty lines left out."""
    begun, parts = 0, list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or (not line.strip() and not parts):
            continue
        begun = begun or number
        parts.append(line.removesuffix("\\").strip() if line.endswith("\\") else line.strip())
        if not line.endswith("\\"):
            yield begun, " ".join(filter(None, parts))
            begun, parts = 0, []
    if parts:
        raise DockerfileError(f"line {begun}: continued past the end")


def parse(text: str) -> Dockerfile:
    """Read a Dockerfile. Raises DockerfileError for an instruction, a flag's form or a heredoc that is not known."""
    result = Dockerfile({}, [])
    for number, line in _logical_lines(text):
        keyword, _, rest = line.partition(" ")
        if keyword not in KNOWN:
            raise DockerfileError(f"line {number}: {keyword} is not known")
        flags, rest = {}, rest.strip()
        while match := re.match(r"--([a-z-]+)=(\S+)\s+", rest):
            flags[match[1]], rest = match[2], rest[match.end() :]
        if "<<" in rest and keyword in ("RUN", "COPY"):
            raise DockerfileError(f"line {number}: heredocs are not known")
        instruction = Instruction(keyword, rest, flags, number)
        if keyword == "FROM":
            base, *named = substitute(rest, result.arguments).split()
            name = named[1] if len(named) == 2 and named[0].upper() == "AS" else f"stage-{len(result.stages)}"
            result.stages.append(Stage(name, base))
        elif result.stages:
            result.stages[-1].instructions.append(instruction)
        elif keyword == "ARG":
            name, _, default = rest.partition("=")
            result.arguments[name] = default
        else:
            raise DockerfileError(f"line {number}: {keyword} before the first FROM")
    return result


@dataclass(frozen=True)
class Ignore:
    """The rules of a .dockerignore, see moby's patternmatcher: relative to the root, the last match counts, and what
    matches a folder holds for all that is in it, until a later rule says otherwise."""

    rules: tuple[tuple[bool, re.Pattern[str]], ...]

    @classmethod
    def of(cls, text: str) -> "Ignore":
        """Read one."""
        lines = [line.strip() for line in text.splitlines()]
        return cls(
            tuple(
                (not line.startswith("!"), _pattern(line.removeprefix("!").strip().strip("/")))
                for line in lines
                if line and not line.startswith("#")
            )
        )

    def drops(self, path: str) -> bool:
        """Whether this file, relative to the root, is kept from the builder."""
        parts = path.split("/")
        prefixes = ["/".join(parts[: count + 1]) for count in range(len(parts))]
        dropped = False
        for drops, pattern in self.rules:
            if any(pattern.fullmatch(prefix) for prefix in prefixes):
                dropped = drops
        return dropped


def _pattern(glob: str) -> re.Pattern[str]:
    tokens = re.findall(r"\*\*/|\*\*|\*|\?|[^*?]+", glob)
    meaning = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(meaning.get(token) or re.escape(token) for token in tokens))


def context_of(root: Path) -> list[str]:
    """The files, relative to `root`, that `docker build ROOT` sends."""
    ignore = Ignore.of((root / ".dockerignore").read_text(encoding="utf-8"))
    # Never let through, and large: not looked into.
    skipped = {".git", ".trireme", ".venv", ".venv-build", ".venv-litellm"}
    found = []
    for top in sorted(root.iterdir()):
        if top.name in skipped:
            assert ignore.drops(f"{top.name}/any"), top
            continue
        paths = [top] if not top.is_dir() else (path for path in sorted(top.rglob("*")) if not path.is_dir())
        found += [name for path in paths if not ignore.drops(name := path.relative_to(root).as_posix())]
    return found
