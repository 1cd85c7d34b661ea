from dataclasses import dataclass


@dataclass(frozen=True)
class TensorRtLlmTarget:
    image: str
    sm: int
    max_batch_size: int
    max_input_len: int
    max_seq_len: int
    max_num_tokens: int
    max_beam_width: int = 1
