"""A decoder-only checkpoint as an OpenVINO model that the paged-attention pass of OpenVINO GenAI accepts.

The graph is built straight from the safetensors: stateful key-value caches per layer (read_value -> gather(beam_idx) ->
concat -> assign) around `scaled_dot_product_attention`, which continuous batching replaces by paged attention.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino.op.util import Variable, VariableInfo

from .checkpoint import DecoderShape, read_config
from .exported import FullWeights, Weights, open_weights
from .matrices import WeightFormat
from .openvino_files import save_model
from .openvino_weights import matrix_node
from .rope import Rope


class _DecoderGraph:
    """Builds the graph; node shapes: B batch, S new positions, H hidden, N heads, K key-value heads, D head size."""

    def __init__(self, shape: DecoderShape, weights: Weights, weight_format: WeightFormat) -> None:
        self.shape = shape
        self.names = frozenset(shape.weight_shapes)
        self.weights = weights
        self.format = weight_format
        self.input_ids = self._parameter("input_ids", ov.Type.i64, [-1, -1])
        self.attention_mask = self._parameter("attention_mask", ov.Type.i64, [-1, -1])
        self.position_ids = self._parameter("position_ids", ov.Type.i64, [-1, -1])
        self.beam_idx = self._parameter("beam_idx", ov.Type.i32, [-1])
        self.sinks: list[ov.Node] = []
        self.variables: list[Variable] = []

    @staticmethod
    def _parameter(name: str, dtype: ov.Type, dims: list[int]) -> ov.Node:
        node = ops.parameter(ov.PartialShape(dims), dtype, name=name)
        node.output(0).set_names({name})
        return node

    def _linear(self, x: ov.Node, name: str) -> ov.Node:
        """x times the transposed matrix `name`, and its bias where it has one."""
        matrix = self.weights.matrix(name, self.format)
        if matrix.input_factors is not None:
            x = ops.multiply(x, ops.constant(matrix.input_factors, name=f"{name}.input_factors"))
        product = ops.matmul(x, matrix_node(matrix, f"{name}.weight"), False, True)
        if f"{name}.bias" not in self.names:
            return product
        return ops.add(product, ops.constant(self.weights.vector(f"{name}.bias"), name=f"{name}.bias"))

    def _rms_norm(self, x: ov.Node, name: str) -> ov.Node:
        mean_square = ops.reduce_mean(ops.power(x, np.float32(2)), np.array([-1]), keep_dims=True)
        inverse = ops.divide(np.float32(1), ops.sqrt(ops.add(mean_square, np.float32(self.shape.rms_norm_eps))))
        return ops.multiply(ops.multiply(x, inverse), ops.constant(self.weights.vector(name), name=name))

    def _rope_tables(self) -> tuple[ov.Node, ov.Node]:
        """cos and sin, each [B, 1, S, D]; rotary embeddings as in Su et al. 2021, halves layout."""
        rope = self.shape.rope
        inverse_frequency = np.array(rope.inverse_frequencies(self.shape.head_dim), dtype=np.float32)
        positions = ops.unsqueeze(ops.convert(self.position_ids, "f32"), np.array([1, 3]))
        angles = ops.multiply(positions, inverse_frequency.reshape(1, 1, 1, -1))
        both = ops.concat([angles, angles], -1)
        if rope.attention_factor == 1:
            return ops.cos(both), ops.sin(both)
        factor = np.float32(rope.attention_factor)
        return ops.multiply(ops.cos(both), factor), ops.multiply(ops.sin(both), factor)

    def _rotate(self, x: ov.Node, cos: ov.Node, sin: ov.Node) -> ov.Node:
        half = self.shape.head_dim // 2
        first = ops.slice(x, np.array([0]), np.array([half]), np.array([1]), np.array([3]))
        second = ops.slice(x, np.array([half]), np.array([2 * half]), np.array([1]), np.array([3]))
        turned = ops.concat([ops.negative(second), first], 3)
        return ops.add(ops.multiply(x, cos), ops.multiply(turned, sin))

    def _heads(self, x: ov.Node, count: int) -> ov.Node:
        """[B, S, count * D] -> [B, count, S, D]."""
        split = ops.reshape(x, np.array([0, 0, count, self.shape.head_dim]), special_zero=True)
        return ops.transpose(split, np.array([0, 2, 1, 3]))

    def _cached(self, current: ov.Node, name: str) -> ov.Node:
        """Past and current keys or values, [B, K, past + S, D]; the state is left as the next step's past."""
        info = VariableInfo()
        info.data_shape = ov.PartialShape([-1, self.shape.num_kv_heads, -1, self.shape.head_dim])
        info.data_type = ov.Type.f32
        info.variable_id = name
        variable = Variable(info)
        self.variables.append(variable)
        batch = ops.gather(ops.shape_of(self.input_ids), np.array([0]), np.array(0))
        dims = [batch, np.array([self.shape.num_kv_heads]), np.array([0]), np.array([self.shape.head_dim])]
        empty = ops.broadcast(np.float32(0), ops.concat(dims, 0))
        past = ops.gather(ops.read_value(empty, variable), self.beam_idx, np.array(0))
        joined = ops.concat([past, current], 2)
        self.sinks.append(ops.assign(joined, variable))
        return joined

    def _for_all_heads(self, x: ov.Node) -> ov.Node:
        """[B, K, L, D] -> [B, N, L, D]: each key-value head stands for its group of query heads."""
        group = self.shape.heads_per_kv_head
        if group == 1:
            return x
        dim = np.array([self.shape.head_dim])
        dims = ops.shape_of(x)
        batch, length = (ops.gather(dims, np.array([axis]), np.array(0)) for axis in (0, 2))
        wide = ops.concat([batch, np.array([self.shape.num_kv_heads]), np.array([group]), length, dim], 0)
        repeated = ops.broadcast(ops.unsqueeze(x, np.array(2)), wide, "BIDIRECTIONAL")
        merged = np.array([0, self.shape.num_heads, -1, self.shape.head_dim])
        return ops.reshape(repeated, merged, special_zero=True)

    def _causal_mask(self) -> ov.Node:
        """Additive float mask [B, 1, S, past + S]: 0 where a position may look, the lowest float elsewhere."""
        total = ops.gather(ops.shape_of(self.attention_mask), np.array(1), np.array(0))
        keys = ops.range(np.int64(0), total, np.int64(1), "i64")
        may_look = ops.less_equal(
            ops.unsqueeze(keys, np.array([0, 1, 2])), ops.unsqueeze(self.position_ids, np.array([1, 3]))
        )
        real = ops.unsqueeze(ops.convert(self.attention_mask, "boolean"), np.array([1, 2]))
        lowest = np.finfo(np.float32).min
        return ops.select(ops.logical_and(may_look, real), np.float32(0), lowest)

    def _layer(self, x: ov.Node, index: int, cos: ov.Node, sin: ov.Node, mask: ov.Node) -> ov.Node:
        shape, prefix = self.shape, f"model.layers.{index}"
        normed = self._rms_norm(x, f"{prefix}.input_layernorm.weight")
        q = self._heads(self._linear(normed, f"{prefix}.self_attn.q_proj"), shape.num_heads)
        k = self._heads(self._linear(normed, f"{prefix}.self_attn.k_proj"), shape.num_kv_heads)
        v = self._heads(self._linear(normed, f"{prefix}.self_attn.v_proj"), shape.num_kv_heads)
        if shape.qk_norm:
            q = self._rms_norm(q, f"{prefix}.self_attn.q_norm.weight")
            k = self._rms_norm(k, f"{prefix}.self_attn.k_norm.weight")
        keys = self._for_all_heads(self._cached(self._rotate(k, cos, sin), f"past_key_values.{index}.key"))
        values = self._for_all_heads(self._cached(v, f"past_key_values.{index}.value"))
        scale = np.float32(shape.head_dim**-0.5)
        attended = ops.scaled_dot_product_attention(
            self._rotate(q, cos, sin), keys, values, mask, ops.constant(scale), causal=False
        )
        flat = ops.reshape(
            ops.transpose(attended, np.array([0, 2, 1, 3])),
            np.array([0, 0, shape.num_heads * shape.head_dim]),
            special_zero=True,
        )
        x = ops.add(x, self._linear(flat, f"{prefix}.self_attn.o_proj"))
        normed = self._rms_norm(x, f"{prefix}.post_attention_layernorm.weight")
        gate = ops.swish(self._linear(normed, f"{prefix}.mlp.gate_proj"))
        up = self._linear(normed, f"{prefix}.mlp.up_proj")
        return ops.add(x, self._linear(ops.multiply(gate, up), f"{prefix}.mlp.down_proj"))

    def _embeddings(self, name: str) -> ov.Node:
        return matrix_node(self.weights.matrix(name, self.format.of_embeddings), f"{name}.weight")

    def build(self) -> ov.Model:
        embedding = self._embeddings("model.embed_tokens")
        x = ops.gather(embedding, self.input_ids, np.array(0))
        cos, sin = self._rope_tables()
        mask = self._causal_mask()
        for index in range(self.shape.num_layers):
            x = self._layer(x, index, cos, sin, mask)
        x = self._rms_norm(x, "model.norm.weight")
        head = embedding
        if not self.shape.tied_embeddings:
            head = self._embeddings("lm_head")
        logits = ops.matmul(x, head, False, True)
        logits.output(0).set_names({"logits"})
        parameters = [self.input_ids, self.attention_mask, self.position_ids, self.beam_idx]
        return ov.Model([ops.result(logits)], self.sinks, parameters, self.variables, "decoder")


def build_model(shape: DecoderShape, weights: Weights, weight_format: WeightFormat = WeightFormat.F32) -> ov.Model:
    """The OpenVINO model of a decoder; it computes in float32, from weights as they are stored, or rounded to it.

    Inputs: input_ids, attention_mask, position_ids int64 [B, S], beam_idx int32 [B]. Output: logits float32 [B, S, V].
    Raises KeyError naming a weight that is missing.
    """
    return _DecoderGraph(shape, weights, weight_format).build()


def convert_checkpoint(checkpoint: Path, out: Path, weight_format: WeightFormat = WeightFormat.F32) -> str:
    """Write openvino_model.xml and .bin into the folder `out`, which must exist; what the checkpoint is quantized with.

    One that is quantized keeps its codes. Raises CheckpointError for one that cannot be read or is not supported.
    """
    shape, weights, quantization = open_weights(checkpoint)
    save_model(build_model(shape, weights, weight_format), out / "openvino_model.xml")
    return quantization


def write_hollow_model(checkpoint: Path, out: Path) -> None:
    """Write a model with the checkpoint's vocabulary and one tiny layer of zeros into the folder `out`."""
    real = DecoderShape.from_config(read_config(checkpoint))
    shape = replace(
        real,
        hidden_size=8,
        intermediate_size=8,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=8,
        tied_embeddings=True,
        rope=Rope(10_000.0, real.max_positions),
        qkv_bias=False,
        output_bias=False,
        mlp_bias=False,
        qk_norm=False,
    )
    weights = {name: np.zeros(dims, np.float32) for name, dims in shape.weight_shapes.items()}
    save_model(build_model(shape, FullWeights(weights)), out / "openvino_model.xml")
