"""The bodies of requests. Every field of OpenAI's API is known; those that cannot be honoured are refused by name."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, StrictStr

#: Texts that end an answer: OpenAI allows 4; more are useful, and bounded.
MAX_STOPS = 64
MAX_STOP_CHARACTERS = 1024

_MAX_SEED = 2**63 - 1


def _whole(value: Any) -> Any:
    """2.0 is 2, as JSON has it; everything else that is no whole number is refused."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Whole = Annotated[StrictInt, BeforeValidator(_whole)]
Stop = Annotated[StrictStr, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]
# The first item that is wrong says enough: a body may hold a million of them.
Stops = Annotated[list[Stop], Field(max_length=MAX_STOPS, fail_fast=True)]

#: How long lists may be at all; what is allowed of prompts is a setting, and less.
MAX_ITEMS = 8192


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class TextPart(_Body):
    """A part of a message; only text."""

    type: Literal["text"]
    text: StrictStr


class ChatMessage(_Body):
    """One turn. developer is taken for system."""

    role: Literal["system", "developer", "user", "assistant"]
    content: StrictStr | Annotated[list[TextPart], Field(max_length=MAX_ITEMS, fail_fast=True)]
    name: None = Field(None, description="Not supported: chat templates have no place for it.")

    # What an answer that is sent back holds.
    refusal: None = None
    audio: None = None
    function_call: None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = Field(None, description="Not supported yet.")
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None


class JsonSchema(_Body):
    """A schema that an answer must match."""

    name: Annotated[StrictStr, Field(max_length=64)]
    description: StrictStr | None = None
    json_schema: dict[str, Any] | None = Field(None, alias="schema")
    strict: StrictBool | None = None


class ResponseFormat(_Body):
    """What an answer must be: any text, any JSON object, or JSON of a schema. Enforced while it is generated."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(_Body):
    """How an answer is streamed. include_usage: one more event in the end, with the counts of tokens."""

    include_usage: StrictBool | None = None
    include_obfuscation: Literal[False] | None = None


class _Generation(_Body):
    """What both endpoints take."""

    model: Annotated[StrictStr, Field(min_length=1, max_length=256)]
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[Whole, Field(ge=1)] | None = None
    stop: Stop | Stops | None = None
    seed: Annotated[Whole, Field(ge=-_MAX_SEED - 1, le=_MAX_SEED)] | None = None
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    max_tokens: Annotated[Whole, Field(ge=1, le=2**31 - 1)] | None = None
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    user: Annotated[StrictStr, Field(max_length=512)] | None = None

    # Not OpenAI's, and known from other servers.
    top_k: Annotated[Whole, Field(ge=0, le=2**31 - 1)] | None = None
    repetition_penalty: Annotated[Number, Field(gt=0, le=100)] | None = None
    min_tokens: Annotated[Whole, Field(ge=0, le=2**31 - 1)] | None = None
    ignore_eos: StrictBool | None = None
    bad_words: Stops | None = None
    guided_regex: StrictStr | None = None
    guided_choice: Annotated[list[StrictStr], Field(min_length=1, max_length=1024, fail_fast=True)] | None = None
    guided_grammar: StrictStr | None = None

    # What changes nothing here.
    safety_identifier: StrictStr | None = None
    prompt_cache_key: Annotated[StrictStr, Field(max_length=512)] | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = Field(None, description="Only empty.")


class ChatRequest(_Generation):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True)]
    max_completion_tokens: Annotated[Whole, Field(ge=1, le=2**31 - 1)] | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[Whole, Field(ge=0, le=0)] | None = Field(
        None, description="Engines tell the log-probability of the chosen token only."
    )
    response_format: ResponseFormat | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    # Accepted where they ask for nothing.
    tools: Annotated[list[Any], Field(max_length=0)] | None = Field(None, description="Not supported yet.")
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: StrictBool | None = None
    functions: Annotated[list[Any], Field(max_length=0)] | None = Field(None, description="Not supported yet.")
    function_call: Literal["none", "auto"] | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=8, fail_fast=True)] | None = None
    audio: None = None
    reasoning_effort: Literal["none"] | None = None
    verbosity: Literal["medium"] | None = None
    web_search_options: None = None
    metadata: Annotated[dict[str, StrictStr], Field(max_length=64)] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    prediction: dict[str, Any] | None = None


class CompletionRequest(_Generation):
    """The body of POST /v1/completions."""

    prompt: StrictStr | Annotated[list[StrictStr], Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True)]
    echo: StrictBool | None = None
    logprobs: Annotated[Whole, Field(ge=0, le=0)] | None = Field(
        None, description="Engines tell the log-probability of the chosen token only: 0."
    )
    suffix: None = Field(None, description="Not supported.")
    best_of: Annotated[Whole, Field(ge=1, le=1)] | None = Field(None, description="Not supported beyond 1.")
