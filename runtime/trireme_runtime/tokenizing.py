"""Text to token ids: batched, and through the chat template. Knows nothing about tensors."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .contract import invalid

# Without this, transformers warns about a missing torch, which serving does not need.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

Ids = NDArray[np.int32]


class TokenizerError(ValueError):
    """A tokenizer folder that cannot be served from; the message names the folder."""


def load_tokenizer(folder: Path) -> Any:
    """The fast Hugging Face tokenizer in `folder`, from local files only and without remote code.

    Raises TokenizerError if there is none, or only a slow one.
    """
    from transformers import AutoTokenizer

    if not folder.is_dir():
        raise TokenizerError(f"tokenizer folder {folder} not found")
    if not (folder / "tokenizer.json").is_file():
        raise TokenizerError(f"tokenizer folder {folder} holds no tokenizer.json; a fast tokenizer is needed")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        # The tokenizers library raises Exception itself.
        raise TokenizerError(f"tokenizer folder {folder} cannot be read: {error}") from error
    return tokenizer


class Encoder:
    """Encodes prompts. `tokenizer` is a fast Hugging Face tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._bos = tokenizer.bos_token
        self._context = int(tokenizer.model_max_length)
        self._longest_token_bytes = _longest_token_bytes(tokenizer)

    def check_length(self, prompt: str) -> None:
        """Raise Refusal for a prompt that cannot fit into the context, without the cost of tokenizing it."""
        if self._longest_token_bytes is None:
            return
        size = len(prompt.encode("utf-8"))
        least = -(-size // self._longest_token_bytes)
        if least > self._context:
            raise invalid(
                f"the prompt has {size} bytes, at least {least} tokens; the model's context is {self._context} tokens"
            )

    def encode_batch(self, prompts: Sequence[str]) -> list[Ids]:
        """Ids of each prompt, int32 [n].

        Special tokens written out in a prompt are taken as such; those that the tokenizer adds by itself are left out
        of a prompt that already begins with the begin-of-text token.
        """
        ids: list[Ids] = [np.empty(0, np.int32)] * len(prompts)
        for add_special_tokens in (True, False):
            chosen = [i for i, prompt in enumerate(prompts) if self._adds_special_tokens(prompt) == add_special_tokens]
            if chosen:
                encodings = self._tokenizer.backend_tokenizer.encode_batch_fast(
                    [prompts[i] for i in chosen], add_special_tokens=add_special_tokens
                )
                for i, encoding in zip(chosen, encodings, strict=True):
                    ids[i] = np.array(encoding.ids, dtype=np.int32)
        return ids

    @property
    def end_id(self) -> int:
        """The id that ends an answer, -1 if the tokenizer has none."""
        return -1 if self._tokenizer.eos_token_id is None else int(self._tokenizer.eos_token_id)

    @property
    def pad_id(self) -> int:
        """The id to fill up with: the tokenizer's, or else the end id."""
        return self.end_id if self._tokenizer.pad_token_id is None else int(self._tokenizer.pad_token_id)

    def room_after(self, prompt_length: int) -> int:
        """How many tokens the context leaves for the answer, at least 1."""
        return max(1, self._context - prompt_length)

    def word_list(self, words: Sequence[str]) -> Ids:
        """Words as int32 [2, n]: their ids one after the other, and where each ends, filled up with -1."""
        ids = [self._tokenizer.encode(word, add_special_tokens=False) for word in words if word]
        flat = [index for word in ids for index in word]
        ends = np.full(len(flat), -1, np.int32)
        ends[: len(ids)] = np.cumsum([len(word) for word in ids], dtype=np.int32)
        return np.array([flat, ends], np.int32).reshape(2, len(flat))

    def embedding_bias(self, words: Sequence[str], weights: Sequence[float]) -> NDArray[np.float32]:
        """What to add to the logits, float32 [vocabulary]: for each id of a word its weight. Empty without words.

        Raises Refusal if there are not as many weights as words.
        """
        if len(words) != len(weights):
            raise invalid(f"embedding_bias_weights has {len(weights)} values for {len(words)} embedding_bias_words")
        if not words:
            return np.zeros(0, np.float32)
        bias = np.zeros(len(self._tokenizer), np.float32)
        for word, weight in zip(words, weights, strict=True):
            np.add.at(bias, self._tokenizer.encode(word, add_special_tokens=False), weight)
        return bias

    def _adds_special_tokens(self, prompt: str) -> bool:
        return not (self._bos and prompt.startswith(self._bos))

    def render_chat(self, messages: str, kwargs: str | None = None) -> str:
        """The prompt that the chat template makes of `messages`, a JSON list of {"role", "content"} objects.

        `kwargs` is a JSON object of further variables for the template. Raises Refusal (INVALID_ARGUMENT) naming the
        tensor for anything else, and with the template's own words where the template refuses.
        """
        import jinja2

        if not self._tokenizer.chat_template:
            raise invalid("messages: this model's tokenizer has no chat template; send text_input")
        parsed = _parse_messages(messages)
        variables = _json("chat_template_kwargs", kwargs) if kwargs else {}
        if not isinstance(variables, dict):
            raise invalid(f"chat_template_kwargs: a JSON object is needed, not {_kind(variables)}")
        reserved = sorted(
            variables.keys()
            & {"tokenize", "chat_template", "conversation", "messages", "return_tensors", "return_dict"}
        )
        if reserved:
            raise invalid(f"chat_template_kwargs: the key {reserved[0]!r} is reserved")
        options = {"add_generation_prompt": True, **variables}
        try:
            rendered = self._tokenizer.apply_chat_template(parsed, tokenize=False, **options)
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise invalid(f"messages: the chat template refuses them: {error}") from error
        try:
            # JSON can spell what no text can hold, and one such prompt would fail all that are tokenized with it.
            rendered.encode("utf-8")
        except UnicodeEncodeError as error:
            raise invalid(f"messages: lone surrogate {rendered[error.start]!a} is no character") from error
        return str(rendered)


def _longest_token_bytes(tokenizer: Any) -> int | None:
    """How many bytes of a prompt one id can stand for at most; None where the tokenizer may drop or change text."""
    backend = tokenizer.backend_tokenizer
    if backend.normalizer is not None or "ByteLevel" not in str(backend.decoder):
        return None
    # In byte-level vocabularies one character stands for one byte; added tokens are plain text.
    added = [len(token.content.encode("utf-8")) for token in tokenizer.added_tokens_decoder.values()]
    return max([len(token) for token in backend.get_vocab(with_added_tokens=False)] + added)


def _kind(value: object) -> str:
    return {dict: "an object", list: "a list", str: "a string", type(None): "null"}.get(type(value), repr(value))


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise invalid(f"{name}: no valid JSON ({error})") from error


def _parse_messages(text: str) -> list[dict[str, Any]]:
    parsed = _json("messages", text)
    if not isinstance(parsed, list) or not parsed:
        found = "an empty one" if parsed == [] else _kind(parsed)
        raise invalid(f"messages: a JSON list with at least one message is needed, not {found}")
    for index, message in enumerate(parsed):
        if not isinstance(message, dict):
            raise invalid(f"messages[{index}]: an object with role and content is needed, not {_kind(message)}")
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                raise invalid(f"messages[{index}].{key}: a string is needed, not {_kind(message.get(key))}")
    return parsed
