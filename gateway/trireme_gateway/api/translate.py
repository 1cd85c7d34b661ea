"""From the body of a request to what is asked of a server. Knows no network."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from trireme_client import Generation, Guide, InvalidArgument, Message

from ..settings import Limits
from .errors import BadRequest
from .fields import ChatRequest, CompletionRequest, ResponseFormat, _Generation

#: Where the client names no max_tokens: what the context leaves; the server cuts it to that.
ALL_THAT_IS_LEFT = 2**31 - 1

#: How much of a wrong value is shown.
_SHOWN = 60

_FIELD = re.compile(r"[a-z_]+")
_KINDS_OF_A_UNION = {"str", "int", "float", "bool", "list", "dict", "none"}

#: The name that a server's message begins with, and what that is called in the API where it is called otherwise.
_TENSOR = re.compile(r"[a-z_]+")
_GUIDE_FIELDS = ("guided_regex", "guided_choice", "guided_grammar", "response_format")
_GUIDES = ("guided_decoding_guide", "guided_decoding_guide_type")
_PARAMS = {
    "num_return_sequences": "n",
    "return_log_probs": "logprobs",
    "stop_words": "stop",
}

_Body = TypeVar("_Body", bound=BaseModel)


@dataclass(frozen=True)
class Wish:
    """What a request asks for.

    generations: one for each prompt, each with `choices` answers. stream: as server-sent events; include_usage: with
    the counts at the end. log_probs: those of the tokens are shown.
    """

    model: str
    generations: tuple[Generation, ...]
    choices: int
    stream: bool
    include_usage: bool
    log_probs: bool
    session: str | None
    guided_by: str | None = None
    user: str | None = None


def parse(kind: type[_Body], body: bytes) -> _Body:
    """The body as a value. Raises BadRequest naming the field, its value and what is allowed."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _bad_request(kind, error) from None


def _bad_request(kind: type[BaseModel], error: ValidationError) -> BadRequest:
    detail = _worst(error)
    place, top = _place(detail["loc"])
    if detail["type"] == "json_invalid":
        return BadRequest(f"the body is no valid JSON: {detail['ctx']['error']}", None, "invalid_json")
    if not place:
        return BadRequest("the body is no JSON object", None, "invalid_json")
    if detail["type"] == "extra_forbidden":
        return BadRequest(f"{place}: unknown field", place, "unknown_parameter")
    if detail["type"] == "missing":
        return BadRequest(f"{place}: missing; it is required", place, "missing_required_parameter")
    shown = _shown(detail["input"])
    message = f"{place} is {shown}: {detail['msg'][0].lower()}{detail['msg'][1:]}"
    field = kind.model_fields.get(top)
    if field is not None and field.description:
        message = f"{message}. {field.description}"
    return BadRequest(message, place, "invalid_value")


def _worst(error: ValidationError) -> Any:
    """Of all that is wrong with the first field that is: not that it has the wrong type for one of several forms, where
    it has the right one for another; and the innermost."""
    details = error.errors(include_url=False)
    ours = [detail for detail in details if detail["loc"][:1] == details[0]["loc"][:1]]
    return min(ours, key=lambda detail: (detail["type"].endswith("_type"), -len(detail["loc"])))


def of_server(error: InvalidArgument, is_chat: bool, guided_by: str | None) -> BadRequest:
    """What a server refuses, with the names of the API instead of those of tensors."""
    prompt = "messages" if is_chat else "prompt"
    if error.message.startswith("the prompt has"):
        return BadRequest(error.message, prompt, "context_length_exceeded")
    name = _TENSOR.match(error.message)
    if name is None:
        return BadRequest(error.message)
    guide = dict.fromkeys(_GUIDES, guided_by or "response_format")
    param = {**_PARAMS, **guide, "text_input": prompt}.get(name[0], name[0])
    known = (ChatRequest if is_chat else CompletionRequest).model_fields
    if param not in known:
        return BadRequest(error.message)
    return BadRequest(param + error.message[name.end() :], param, "invalid_value")


def _shown(value: Any) -> str:
    if isinstance(value, str | int | float | bool | None):
        text = repr(value)
        return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
    return f"a list of {len(value)}" if isinstance(value, list) else "an object"


def _place(parts: Sequence[int | str]) -> tuple[str, str]:
    """A field's place, such as messages[0].content, and the first part of it."""
    place = ""
    for part in parts:
        if isinstance(part, int):
            place += f"[{part}]"
        elif part not in _KINDS_OF_A_UNION and (_FIELD.fullmatch(part) or not place):
            place += f".{part}" if place else part
    return place, str(parts[0]) if parts else ""


def wish_of_chat(request: ChatRequest, limits: Limits) -> Wish:
    """Raises BadRequest for what cannot be had."""
    if request.max_tokens is not None and request.max_completion_tokens not in (None, request.max_tokens):
        raise BadRequest("max_tokens and max_completion_tokens are both given; send one of them", "max_tokens")
    if request.top_logprobs is not None and not request.logprobs:
        raise BadRequest("top_logprobs is given without logprobs", "top_logprobs")
    messages = [Message(role=_role(one.role), content=_text(one.content)) for one in request.messages]
    generation = _generation(
        request,
        messages=messages,
        max_tokens=request.max_completion_tokens or request.max_tokens,
        guide=_guide(request, request.response_format),
        log_probs=request.logprobs or None,
        chat_template_kwargs=request.chat_template_kwargs or None,
    )
    return _wish(request, (generation,), limits)


def wish_of_completion(request: CompletionRequest, limits: Limits) -> Wish:
    """Raises BadRequest for what cannot be had."""
    prompts = [request.prompt] if isinstance(request.prompt, str) else request.prompt
    if len(prompts) > limits.max_prompts:
        raise BadRequest(f"prompt has {len(prompts)} texts; at most {limits.max_prompts} are allowed", "prompt")
    if request.echo and request.logprobs is not None:
        raise BadRequest("echo and logprobs are both given; a prompt's log-probabilities are not known", "echo")
    for number, prompt in enumerate(prompts):
        if not prompt:
            place = "prompt" if isinstance(request.prompt, str) else f"prompt[{number}]"
            raise BadRequest(f"{place} is empty; at least 1 character is needed", place)
    generations = tuple(
        _generation(
            request,
            prompt=prompt,
            # 16 is what OpenAI's API says; what is meant here is an answer.
            max_tokens=request.max_tokens,
            guide=_guide(request, None),
            log_probs=None if request.logprobs is None else True,
            echo=request.echo or None,
        )
        for prompt in prompts
    )
    return _wish(request, generations, limits)


def _wish(request: _Generation, generations: tuple[Generation, ...], limits: Limits) -> Wish:
    choices = request.n or 1
    if choices * len(generations) > limits.max_choices:
        raise BadRequest(
            f"n is {choices}, for {len(generations)} prompts; at most {limits.max_choices} answers are allowed", "n"
        )
    if request.stream_options is not None and not request.stream:
        raise BadRequest("stream_options is given without stream", "stream_options")
    return Wish(
        model=request.model,
        generations=generations,
        choices=choices,
        stream=bool(request.stream),
        include_usage=bool(request.stream_options and request.stream_options.include_usage),
        log_probs=bool(generations[0].log_probs),
        session=request.prompt_cache_key,
        user=request.user or request.safety_identifier,
        guided_by=next((name for name in _GUIDE_FIELDS if getattr(request, name, None) is not None), None),
    )


def _generation(request: _Generation, *, max_tokens: int | None, **more: Any) -> Generation:
    stops = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    # A nucleus of nothing is the likeliest token.
    is_greedy = request.top_p == 0
    return Generation(
        max_tokens=ALL_THAT_IS_LEFT if max_tokens is None else max_tokens,
        temperature=0.0 if is_greedy else request.temperature,
        top_p=None if is_greedy else request.top_p,
        top_k=request.top_k,
        seed=None if request.seed is None else request.seed % 2**64,
        stop=stops,
        bad_words=tuple(request.bad_words or ()),
        n=request.n if request.n != 1 else None,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        repetition_penalty=request.repetition_penalty,
        min_tokens=request.min_tokens,
        ignore_eos=request.ignore_eos or None,
        **more,
    )


def _role(role: str) -> str:
    return "system" if role == "developer" else role


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _guide(request: _Generation, wanted: ResponseFormat | None) -> Guide | None:
    """What the text must match. Raises BadRequest where that is said twice."""
    guides = []
    if wanted is not None and wanted.type == "json_object":
        guides.append(("response_format", Guide.json_object()))
    if wanted is not None and wanted.type == "json_schema":
        if wanted.json_schema is None or wanted.json_schema.json_schema is None:
            raise BadRequest("response_format.json_schema.schema: missing; json_schema needs it", "response_format")
        guides.append(("response_format", Guide.json_schema(wanted.json_schema.json_schema)))
    if request.guided_regex is not None:
        guides.append(("guided_regex", Guide.regex(request.guided_regex)))
    if request.guided_choice is not None:
        guides.append(("guided_choice", Guide.choice(request.guided_choice)))
    if request.guided_grammar is not None:
        guides.append(("guided_grammar", Guide.grammar(request.guided_grammar)))
    if len(guides) > 1:
        names = " and ".join(name for name, _ in guides)
        raise BadRequest(f"{names} are given together; an answer can match one of them", guides[1][0])
    return guides[0][1] if guides else None
