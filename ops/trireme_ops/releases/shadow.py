"""A share of the live traffic, asked of another release as well: what it answers is compared, and thrown away.

The live release's engine model copies requests to a socket here, see `trireme_runtime.tap`. Each is asked again of the
other release's ensemble, with the sampling that the live one settled on.
"""

import asyncio
import concurrent.futures
import contextlib
import json
import math
import os
import shutil
import socket
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trireme_client import AsyncClient, Completion, Generation, TriremeError
from trireme_client.errors import code_of
from trireme_runtime.detokenizing import Detokenizer
from trireme_runtime.stopping import cut_at_stop
from trireme_runtime.tap import tap_path
from trireme_runtime.tokenizing import Encoder, load_tokenizer

from ..errors import OperatorError
from .llm import Llm, scoped

#: How many differing answers are kept to be shown.
EXAMPLES = 5

#: Of how many requests, the latest ones, latencies are kept.
MAX_LATENCIES = 10_000

#: How many requests may be known whose live answer, or whose other, has not come.
_MAX_PAIRS = 4096

_MAX_DATAGRAM_BYTES = 1 << 21

#: How long `stop` waits for answers that are under way.
_END_S = 10.0


@dataclass
class _Pair:
    """One request. live: the datagram of its end. other: its answer, or the code of the error that came instead."""

    prompt: str
    compares_answers: bool
    live: Mapping[str, Any] | None = None
    other: Completion | str | None = None
    task: "asyncio.Task[None] | None" = None


@dataclass
class _Counts:
    """What came of the requests; `report` says what each means."""

    replayed: int = 0
    compared: int = 0
    busy: int = 0
    cancelled: int = 0
    unfinished: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    finish_reasons: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    errors: dict[str, Counter[str]] = field(default_factory=lambda: {"live": Counter(), "shadow": Counter()})


class Shadow:
    """Runs from `start` to `stop`, in a thread of its own; `report` may be asked at any time, from any thread.

    shm_prefix: of the server's files. address: HOST:PORT of its gRPC endpoint. live: the release whose traffic is
    copied, None for the models of the checkout; tokenizer: the folder of its tokenizer. release: the one that is tried,
    loaded beside it. fraction: of the requests. explicit: the names of the sampling defaults of `release`, which are
    sent with every request, so that both sample alike. concurrency: how many requests may be with the tried release at
    once; further ones are not asked. show_texts: whether the report may hold prompts and answers.
    """

    def __init__(
        self,
        *,
        shm_prefix: str,
        address: str,
        llm: Llm,
        live: str | None,
        release: str,
        tokenizer: Path,
        fraction: float,
        explicit: Collection[str] = (),
        concurrency: int = 16,
        timeout_s: float = 300.0,
        show_texts: bool = False,
    ) -> None:
        self._tapped_model = scoped(llm.engine, live)
        self._tap = tap_path(shm_prefix, self._tapped_model)
        self._address = address
        self._model = scoped(llm.name, release)
        self._names = (live, release)
        self._tokenizer_folder = tokenizer
        self._fraction = fraction
        self._explicit = explicit
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        self._show_texts = show_texts
        self._lock = threading.Lock()
        self._counts = _Counts()
        self._tapped: Mapping[str, Any] = {}
        self._pairs: dict[int, _Pair] = {}
        self._under_way = 0
        self._latencies: deque[tuple[tuple[float, float], tuple[float, float]]] = deque(maxlen=MAX_LATENCIES)
        self._examples: list[dict[str, str]] = []
        self._began_s = 0.0
        self._ended_s: float | None = None
        self._thread: threading.Thread | None = None
        self._folder: Path | None = None
        self._client: AsyncClient | None = None

    def start(self) -> "Shadow":
        """Begin; itself. Raises OperatorError if the live release is shadowed already, or it cannot begin."""
        if self._tap.exists():
            raise OperatorError(f"the traffic of {self._tapped_model} is copied already")
        tokenizer = load_tokenizer(self._tokenizer_folder)
        self._tokenizer, self._encoder, self._detokenizer = tokenizer, Encoder(tokenizer), Detokenizer(tokenizer)
        # Prompts come through here: nobody else may look in. In the system's folder, as a socket's path must be short.
        self._folder = Path(tempfile.mkdtemp(prefix="trireme-shadow-"))
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._loop = asyncio.new_event_loop()
        path = self._folder / "tap"
        try:
            self._socket.bind(str(path))
            path.chmod(0o600)
            self._began_s = time.monotonic()
            self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
            self._thread.start()
            self._write_tap(path)
        except OSError as error:
            self.stop()
            raise OperatorError(f"the traffic cannot be copied: {error}") from error
        return self

    def _write_tap(self, path: Path) -> None:
        staging = self._tap.with_name(f"{self._tap.name}.{os.getpid()}")
        descriptor = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"fraction": self._fraction, "socket": str(path)}, file)
        staging.rename(self._tap)

    def stop(self) -> dict[str, Any]:
        """End: no further requests are copied, and what is under way has a moment to be answered. The last report."""
        if self._folder is not None:
            self._tap.unlink(missing_ok=True)
            if self._thread is not None:
                ended = asyncio.run_coroutine_threadsafe(self._end(), self._loop)
                with contextlib.suppress(concurrent.futures.TimeoutError):
                    ended.result(timeout=_END_S + 5)
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join(timeout=5)
                self._thread = None
            self._loop.close()
            self._socket.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        return self.report()

    def report(self) -> dict[str, Any]:
        """What was found so far, for JSON. Times in s.

        release, against: the tried release and the live one (null: none). fraction. seconds: since the start.
        requests: chosen (of the live traffic), replayed (asked of the tried release), under_way, compared (both
        answered), cancelled (given up by their clients), unfinished (one of the two did not end), left_out (by reason:
        what cannot be asked again as it was), dropped (lost on the way here), busy (too many were with the tried
        release).
        answers: of the requests that are greedy, or have a seed, and that both answered: compared, equal, different.
        finish_reasons: of the compared, how many had each, as "live/shadow". tokens: how many the compared answers
        had. errors: by code, on each side.
        ttft_s, total_s: from the arrival at the engine model until the engine had the first token, and the last one:
        p50, p90 and p99 of each side, and of how many pairs.
        examples: prompts and both answers of a few that differ, if they may be shown.
        """
        with self._lock:
            counts, tapped = self._counts, self._tapped
            left_out = counts.left_out + Counter(tapped.get("left_out", {}))
            live, release = self._names
            made: dict[str, Any] = {
                "release": release,
                "against": live,
                "fraction": self._fraction,
                "seconds": round((self._ended_s or time.monotonic()) - self._began_s, 3),
                "requests": {
                    "chosen": tapped.get("chosen", 0),
                    "replayed": counts.replayed,
                    "under_way": self._under_way,
                    "compared": counts.compared,
                    "cancelled": counts.cancelled,
                    "unfinished": counts.unfinished,
                    "left_out": dict(left_out),
                    "dropped": tapped.get("dropped", 0),
                    "busy": counts.busy,
                },
                "answers": {
                    "compared": counts.answers.total(),
                    "equal": counts.answers["equal"],
                    "different": counts.answers["different"],
                },
                "finish_reasons": dict(counts.finish_reasons),
                "tokens": {side: counts.tokens[side] for side in ("live", "shadow")},
                "errors": {side: dict(codes) for side, codes in counts.errors.items()},
                "ttft_s": _percentiles((live[0], other[0]) for live, other in self._latencies),
                "total_s": _percentiles((live[1], other[1]) for live, other in self._latencies),
            }
            if self._show_texts:
                made["examples"] = list(self._examples)
            return made

    # In the thread

    def _run(self) -> None:
        self._loop.add_reader(self._socket, self._read)
        self._loop.run_forever()

    async def _end(self) -> None:
        """Wait a moment for what is under way; what has not come by then never does."""
        tasks = [pair.task for pair in self._pairs.values() if pair.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=_END_S)
        self._loop.remove_reader(self._socket)
        self._read()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._client is not None:
            await self._client.close()
        with self._lock:
            self._counts.unfinished += len(self._pairs)
            self._pairs.clear()
            self._ended_s = time.monotonic()

    def _read(self) -> None:
        """Take all datagrams that are there."""
        while True:
            try:
                data = self._socket.recv(_MAX_DATAGRAM_BYTES)
            except OSError:
                return
            message = json.loads(data)
            with self._lock:
                self._tapped = message["counts"]
                if message["kind"] == "arrival":
                    self._take(message)
                elif message["kind"] == "end":
                    self._note_end(message)

    def _take(self, message: Mapping[str, Any]) -> None:
        prompt = self._tokenizer.decode(message["ids"], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if self._encoder.encode_batch([prompt])[0].tolist() != message["ids"]:
            self._counts.left_out["prompt"] += 1
        elif self._under_way >= self._concurrency or len(self._pairs) >= _MAX_PAIRS:
            self._counts.busy += 1
        else:
            self._counts.replayed += 1
            self._under_way += 1
            pair = _Pair(prompt, _is_repeatable(message["sampling"]))
            self._pairs[message["key"]] = pair
            pair.task = self._loop.create_task(self._replay(message, pair))
            pair.task.add_done_callback(self._leave)

    def _generation(self, message: Mapping[str, Any], prompt: str) -> Generation:
        """The same request for the other release: nothing that was asked for is left to its defaults."""
        sampling = message["sampling"]
        neutral = {
            "top_k": 0,
            "top_p": 1.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "min_tokens": 0,
        }
        asked = {
            name: sampling[name]
            for name, value in neutral.items()
            if sampling[name] != value or (name in self._explicit and name != "min_tokens")
        }
        end_id = message["end_id"]
        if end_id != self._tokenizer.eos_token_id:
            asked["end_id"] = -1 if end_id is None else end_id
        if sampling["seed"] is not None:
            asked["seed"] = sampling["seed"]
        return Generation(
            prompt=prompt,
            max_tokens=message["max_tokens"],
            temperature=sampling["temperature"],
            stop=tuple(message["stop"]),
            bad_words=tuple(message["bad_words"]),
            echo=False,
            metrics=True,
            **asked,
        )

    async def _replay(self, message: Mapping[str, Any], pair: _Pair) -> None:
        key = message["key"]
        try:
            if self._client is None:
                # Here, in the loop that it is for.
                self._client = AsyncClient(self._address, self._model, self._timeout_s)
            async with self._client.stream(self._generation(message, pair.prompt)) as stream:
                async for _ in stream:
                    pass
            outcome: Completion | str = stream.completion
        except TriremeError as error:
            outcome = code_of(error).value
        with self._lock:
            pair.other = outcome
            self._compare(key)

    def _leave(self, _task: "asyncio.Task[None]") -> None:
        """A request is not with the tried release any more."""
        with self._lock:
            self._under_way -= 1

    def _note_end(self, message: Mapping[str, Any]) -> None:
        pair = self._pairs.get(message["key"])
        if pair is None:
            return
        pair.live = message
        if message["finish_reason"] == "cancelled" and not message["error"]:
            # Nobody waits for it any more.
            del self._pairs[message["key"]]
            self._counts.cancelled += 1
            if pair.task is not None:
                pair.task.cancel()
            return
        self._compare(message["key"])

    def _compare(self, key: int) -> None:
        """Count a request that both have ended; with the lock held."""
        pair = self._pairs.get(key)
        if pair is None or pair.live is None or pair.other is None:
            return
        del self._pairs[key]
        counts, live, other = self._counts, pair.live, pair.other
        counts.compared += 1
        if live["error"]:
            counts.errors["live"][live["error"]] += 1
        if isinstance(other, str):
            counts.errors["shadow"][other] += 1
        if live["error"] or isinstance(other, str):
            return
        text = cut_at_stop(self._detokenizer.delta([], live["ids"], final=True), live["stop_reason"])
        counts.finish_reasons[f"{live['finish_reason']}/{other.finish_reason}"] += 1
        counts.tokens["live"] += len(live["ids"])
        counts.tokens["shadow"] += other.num_output_tokens
        if pair.compares_answers:
            counts.answers["equal" if text == other.text else "different"] += 1
            if text != other.text and len(self._examples) < EXAMPLES:
                self._examples.append({"prompt": pair.prompt, "live": text, "shadow": other.text})
        latencies = _latencies_of(other)
        if latencies is not None and live["ttft_s"] is not None and live["total_s"] is not None:
            self._latencies.append(((live["ttft_s"], live["total_s"]), latencies))


def _is_repeatable(sampling: Mapping[str, Any]) -> bool:
    """Whether the same model gives the same answer again."""
    return sampling["temperature"] == 0 or sampling["top_k"] == 1 or sampling["seed"] is not None


def _latencies_of(completion: Completion) -> tuple[float, float] | None:
    """Until the engine had the first and the last token, in s; None if it did not tell."""
    metrics = completion.metrics
    if metrics is None or not metrics.first_token_time_ns:
        return None
    arrival = metrics.arrival_time_ns
    return (metrics.first_token_time_ns - arrival) / 1e9, (metrics.last_token_time_ns - arrival) / 1e9


def _percentiles(pairs: Iterable[tuple[float, float]]) -> dict[str, Any]:
    """p50, p90 and p99 of both sides, None where nothing is known; and of how many pairs."""
    both = list(pairs)
    sides = {"live": sorted(pair[0] for pair in both), "shadow": sorted(pair[1] for pair in both)}
    return {
        "pairs": len(both),
        **{side: {f"p{rank}": _percentile(values, rank) for rank in (50, 90, 99)} for side, values in sides.items()},
    }


def _percentile(values: Sequence[float], rank: int) -> float | None:
    """By nearest rank, of values in order."""
    return values[max(0, math.ceil(len(values) * rank / 100) - 1)] if values else None
