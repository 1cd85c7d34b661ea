"""The settings of an LLM: parameters in the config.pbtxt of its engine model, and of the front for one answer each."""

#: Those that are whole numbers: the lowest and the highest value.
WHOLE_NUMBERS = {
    "max_num_sequences": (1, 1024),
    "max_num_tokens": (1, 65_536),
    "max_tokens_in_paged_kv_cache": (128, 16_777_216),
    "max_queue_size": (1, 65_536),
    "max_queue_tokens": (1, 1_073_741_824),
    "max_queue_delay_ms": (1, 3_600_000),
    "engine_hang_timeout_ms": (1000, 3_600_000),
    "max_in_flight": (1, 65_536),
}

#: Those that may have a fraction.
NUMBERS = {
    "kv_cache_overcommit": (1, 1024),
    "chunk_delay_per_stream_us": (0, 1_000_000),
    "max_chunk_delay_ms": (0, 10_000),
}

#: Those that are true or false.
FLAGS = ("enable_kv_cache_reuse",)

#: What holds where a client sends nothing, by the name of the client's tensor: the lowest and the highest value. The
#: parameter has `default_` before the name; it is empty where there is none.
SAMPLING_DEFAULTS: dict[str, tuple[float, float]] = {
    "temperature": (0, 100),
    "top_p": (0, 1),
    "top_k": (0, 1_000_000),
    "repetition_penalty": (0.001, 100),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
}

#: Of these, those that are whole numbers.
WHOLE_SAMPLING_DEFAULTS = ("top_k",)
