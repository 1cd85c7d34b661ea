"""How many tokens of a prompt OpenVINO GenAI's prefix cache holds.

The pipeline reuses cached blocks without saying how many. This follows what it does (openvino.genai, BlockManager): a
block is known by the hash of all content up to its end; blocks that nobody holds any more stay known until their space
is needed, the least recently used going first. It is exact for whole blocks while there is room; blocks that an answer
takes are counted when it ends, so that the count can be off while the cache is full to the brim.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(eq=False)
class _Block:
    content: int
    holders: int = 1


@dataclass
class _Holder:
    prompt: tuple[int, ...]
    blocks: list[_Block] = field(default_factory=list)


class PrefixCache:
    """Mirrors the blocks of one pipeline with room for `num_blocks` of `block_tokens` tokens."""

    def __init__(self, num_blocks: int, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._never_used = num_blocks
        self._held: dict[int, _Block] = {}
        self._left: OrderedDict[int, _Block] = OrderedDict()
        self._holders: dict[int, _Holder] = {}

    def take(self, key: int, prompt: Sequence[int]) -> int:
        """Note a new request; how many tokens of its prompt need not be computed (the last one always is)."""
        holder = self._holders[key] = _Holder(tuple(prompt))
        length = len(prompt)
        reused = 0
        content = 0
        while reused < length:
            end = min(reused + self._block_tokens, length)
            block = self._known(self._content(content, prompt[reused:end]))
            if block is None:
                # A block that was left incomplete may hold the first few of these tokens.
                for part in range(reused + 1, min(reused + self._block_tokens - 1, length) + 1):
                    block = self._known(self._content(content, prompt[reused:part]))
                    if block is not None:
                        holder.blocks.append(block)
                        return min(part, length - 1)
                break
            content = block.content
            holder.blocks.append(block)
            reused = end
        return min(reused, length - 1)

    def compute(self, key: int) -> None:
        """Note that the prompt of a request is computed: from now on others find its blocks."""
        holder = self._holders.get(key)
        if holder is not None:
            self._fill(holder, holder.prompt)

    def release(self, key: int, generated: Sequence[int]) -> None:
        """Note the end of a request; `generated` are its new ids, of which the last was not computed any more."""
        holder = self._holders.pop(key)
        self._fill(holder, (*holder.prompt, *generated[:-1]))
        for block in holder.blocks:
            block.holders -= 1
            if block.holders:
                continue
            if self._held.get(block.content) is block:
                del self._held[block.content]
            if self._left.pop(block.content, None) is not None:
                self._never_used += 1
            self._left[block.content] = block

    @staticmethod
    def _content(before: int, ids: Sequence[int]) -> int:
        return hash((before, tuple(ids)))

    def _known(self, content: int) -> _Block | None:
        block = self._left.pop(content, None)
        if block is not None:
            block.holders = 1
            self._held[content] = block
            return block
        block = self._held.get(content)
        if block is not None:
            block.holders += 1
        return block

    def _fill(self, holder: _Holder, ids: Sequence[int]) -> None:
        """Give a request the blocks that `ids` need."""
        size = self._block_tokens
        content = 0
        for index, start in enumerate(range(0, len(ids), size)):
            content = self._content(content, ids[start : start + size])
            if index == len(holder.blocks):
                holder.blocks.append(self._new(content))
            elif holder.blocks[index].content != content:
                self._extend(holder, index, content)

    def _new(self, content: int) -> _Block:
        if self._never_used:
            self._never_used -= 1
        elif self._left:
            self._left.popitem(last=False)
        block = self._held[content] = _Block(content)
        return block

    def _extend(self, holder: _Holder, index: int, content: int) -> None:
        """Tokens came to the last block of a request; if others hold it too, to a copy of its own."""
        block = holder.blocks[index]
        if block.holders > 1:
            block.holders -= 1
            holder.blocks[index] = self._new(content)
            return
        if self._held.get(block.content) is block:
            del self._held[block.content]
        block.content = content
        self._held[content] = block
