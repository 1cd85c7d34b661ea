"""gRPC to one Triton server."""

import asyncio
import contextlib
import uuid
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2

from trireme_client import DeadlineExceeded, Delta, Generation, TriremeError
from trireme_client.calls import finish_async
from trireme_client.errors import error_from_rpc
from trireme_client.wire import request_of, sequences_of, streamed_deltas_of
from trireme_runtime.contract import UNARY_ID_PREFIX, parse_refusal
from trireme_runtime.model_names import SEPARATOR

from ..errors import ServerLost
from ..traces import CallTrace
from .ask import Meter
from .serving import Served, Serving, engine_step, limits_of, served_of, step_models

_SERVICE = "/inference.GRPCInferenceService/"

#: A connection of its own, messages of any size, and a server that came back found soon.
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
]

#: The statuses of a call whose server has gone; what models refuse comes as a message.
_LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)

_COUNTS = {"return_num_input_tokens": [True], "return_num_output_tokens": [True]}

#: How often, and for how long, the end of a request is asked for whose client is gone: it may be on its way yet.
_STOP_EVERY_S, _STOP_FOR_S = 0.05, 5.0


class Call:
    """One generation that is under way on a server."""

    def __init__(
        self,
        link: "Link",
        call: Any,
        served: Served,
        request_id: str,
        sequences: int,
        stream: bool,
        meter: Meter,
        trace: CallTrace | None = None,
    ) -> None:
        self._link = link
        self._meter = meter
        self._call = call
        self._served = served
        self._request_id = request_id
        self._stream = stream
        self._trace = trace
        self._ended = self._abandoned = False
        #: How many sequences the server has not ended; with 0 it has sent its last response.
        self._sequences = sequences
        self._reading: asyncio.Future[Any] | None = None

    async def read(self) -> list[Delta]:
        """The next pieces; none at the end. Raises the TriremeError that the server answers with."""
        try:
            deltas = await self._read()
        except TriremeError as error:
            if self._trace is not None:
                self._trace.end(error)
            raise
        if self._ended and self._trace is not None:
            self._trace.end()
        return deltas

    async def _read(self) -> list[Delta]:
        while not self._ended:
            try:
                response = await self._next()
                if response is grpc.aio.EOF:  # type: ignore[attr-defined]
                    break
                deltas = streamed_deltas_of(response)
            except asyncio.CancelledError:
                if self._abandoned and not _is_cancelling():
                    self._ended = True
                    raise ServerLost(f"{self._link.address} is gone") from None
                raise
            except grpc.RpcError as error:
                self._ended = True
                if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                    if not self._stream:
                        self._link.end_later(
                            self._call, self._reading, self._served.engine, self._request_id, self._meter
                        )
                    raise DeadlineExceeded("the answer was not complete when its time was over") from None
                if error.code() in _LOST and parse_refusal(error.details() or "") is None:
                    raise ServerLost(error.details() or str(error.code())) from error
                raise error_from_rpc(error) from error
            except TriremeError:
                self._ended = True
                self._link.let_end(self._call)
                raise
            if deltas:
                self._sequences -= sum(delta.finish_reason is not None for delta in deltas)
                self._meter.counted(deltas[-1].num_input_tokens, deltas[-1].num_output_tokens)
                return deltas
        self._ended = True
        return []

    async def _next(self) -> Any:
        if self._stream:
            return await self._call.read()
        # Cancelling a read cancels the call, and nobody would learn when the engine has ended it.
        self._reading = asyncio.ensure_future(self._call.read())
        return await asyncio.shield(self._reading)

    def abandon(self) -> None:
        """Let go of it because its server is lost: whoever reads it gets Unavailable."""
        self._abandoned = True
        self._call.cancel()

    def close(self) -> None:
        """End the generation if it is under way. Without streaming, Triton does not tell the engine; so it is asked."""
        if self._ended:
            return
        self._ended = True
        if self._trace is not None:
            self._trace.end(asyncio.CancelledError())
        if self._sequences <= 0:
            self._link.let_end(self._call)
        elif self._stream:
            self._call.cancel()
        else:
            self._link.end_later(self._call, self._reading, self._served.engine, self._request_id, self._meter)


def _count(response: Any, meter: Meter) -> None:
    """What an answer that nobody waited for has taken."""
    if response is not grpc.aio.EOF:  # type: ignore[attr-defined]
        with contextlib.suppress(TriremeError):
            for delta in streamed_deltas_of(response):
                meter.counted(delta.num_input_tokens, delta.num_output_tokens)


def _is_cancelling() -> bool:
    """Whether the current task is being cancelled; Python 3.10 cannot tell."""
    task = asyncio.current_task()
    cancelling = getattr(task, "cancelling", None)
    return bool(cancelling is not None and cancelling())


class Link:
    """A connection to one server, for one event loop. address: host:port. Use `connect` first, and `close`."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._ending: set[asyncio.Task[None]] = set()

    def connect(self) -> None:
        """Connect, now or when the server is there."""
        self._channel = grpc.aio.insecure_channel(self.address, options=_OPTIONS)
        # One request a call: on the wire that is the same as a stream that ends after it, and cheaper.
        self._infer: Any = self._channel.unary_stream(
            f"{_SERVICE}ModelStreamInfer",
            service_pb2.ModelInferRequest.SerializeToString,
            service_pb2.ModelStreamInferResponse.FromString,
        )

    def start(
        self,
        generation: Generation,
        served: Served,
        stream: bool,
        timeout_s: float | None,
        meter: Meter,
        client_id: str = "",
        trace: CallTrace | None = None,
    ) -> Call:
        """Begin a generation. Raises InvalidArgument for what cannot be sent.

        client_id: what the client calls its request; it stands in Triton's id, behind what nobody else can know.
        """
        if stream:
            # With every piece, so that they are known whenever its client leaves.
            generation = replace(generation, tensors={**generation.tensors, **_COUNTS})
        request_id = f"{UNARY_ID_PREFIX}{uuid.uuid4().hex}:{client_id}"
        request = request_of(generation, served.ensemble, stream, request_id)
        if trace is not None:
            for name, value in trace.parameters.items():
                request.parameters[name].string_param = value
        call = self._infer(request, timeout=timeout_s)
        return Call(self, call, served, request_id, sequences_of(request), stream, meter, trace)

    def end_later(
        self, call: Any, reading: "asyncio.Future[Any] | None", engine: str, request_id: str, meter: Meter
    ) -> None:
        """Ask the engine to end a request, until it has ended; reading: its answer, if that is waited for already."""

        meter.pend()
        task = self._in_background(self._end(call, reading, engine, request_id, meter))
        task.add_done_callback(lambda _: meter.is_told())

    def let_end(self, call: Any) -> None:
        """Read a call to its end whose last response was read."""
        self._in_background(finish_async(call))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task

    async def _end(
        self, call: Any, reading: "asyncio.Future[Any] | None", engine: str, request_id: str, meter: Meter
    ) -> None:
        request = service_pb2.ModelInferRequest(model_name=engine, id=request_id)
        request.inputs.add(name="stop", datatype="BOOL", shape=[1, 1])
        request.raw_input_contents.append(b"\x01")
        answer = reading or asyncio.ensure_future(call.read())
        try:
            deadline = asyncio.get_running_loop().time() + _STOP_FOR_S
            while not answer.done() and asyncio.get_running_loop().time() < deadline:
                with contextlib.suppress(grpc.RpcError):
                    async for _ in self._infer(request, timeout=_STOP_FOR_S):
                        pass
                await asyncio.wait([answer], timeout=_STOP_EVERY_S)
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                _count(answer.result(), meter)
                await finish_async(call)
        finally:
            answer.cancel()
            call.cancel()
            with contextlib.suppress(grpc.RpcError, asyncio.CancelledError):
                await answer

    async def is_live(self, timeout_s: float) -> bool:
        """Whether the server answers at all."""
        try:
            await self._ask("ServerLive", service_pb2.ServerLiveRequest(), service_pb2.ServerLiveResponse, timeout_s)
        except grpc.RpcError:
            return False
        return True

    async def is_ready(self, model: str, timeout_s: float) -> bool:
        """Whether the server says that a model is ready. Raises TriremeError if it does not answer."""
        request = service_pb2.ModelReadyRequest(name=model)
        try:
            return bool((await self._ask("ModelReady", request, service_pb2.ModelReadyResponse, timeout_s)).ready)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAVAILABLE or error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise error_from_rpc(error) from error
            return False

    async def serving(self, llm: str, releases: tuple[str, ...], timeout_s: float) -> Serving:
        """What is served of an LLM; releases: those to look for besides the live one.

        Raises TriremeError if the server has none, or does not answer.
        """
        try:
            config = await self._config(llm, timeout_s)
            steps, engine = step_models(config), engine_step(config)
            engine_config = await self._config(engine, timeout_s)
            versions = tuple([await self._version(step, timeout_s) for step in steps])
            version = versions[steps.index(engine)]
            live = served_of(llm, steps, engine, versions, engine_config, version)
            loaded = {live.release.name: live}
            for release in releases:
                name = f"{llm}{SEPARATOR}{release}"
                if release not in loaded and await self.is_ready(name, timeout_s):
                    scoped_engine = engine_step(await self._config(name, timeout_s))
                    version = await self._version(scoped_engine, timeout_s)
                    loaded[release] = served_of(llm, (scoped_engine,), scoped_engine, (), None, version)
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error
        return Serving(live, loaded, *limits_of(engine_config))

    async def steps(self, llm: str, timeout_s: float) -> tuple[str, ...]:
        """The models behind the public name: they change when another release goes live. Raises TriremeError."""
        try:
            return step_models(await self._config(llm, timeout_s))
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error

    async def _config(self, model: str, timeout_s: float) -> Any:
        request = service_pb2.ModelConfigRequest(name=model)
        return (await self._ask("ModelConfig", request, service_pb2.ModelConfigResponse, timeout_s)).config

    async def _version(self, model: str, timeout_s: float) -> str:
        request = service_pb2.ModelMetadataRequest(name=model)
        metadata = await self._ask("ModelMetadata", request, service_pb2.ModelMetadataResponse, timeout_s)
        return max(metadata.versions, key=int, default="")

    async def _ask(self, method: str, request: Any, response: Any, timeout_s: float) -> Any:
        call = self._channel.unary_unary(
            _SERVICE + method,
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        return await call(request, timeout=timeout_s)

    async def close(self) -> None:
        """Close the connection; what is under way is cancelled."""
        for task in list(self._ending):
            task.cancel()
        await self._channel.close(None)
