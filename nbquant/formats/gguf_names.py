"""Names of tensors in GGUF files, and in the networks of transformers from which they were converted.

Source: the converter of llama.cpp, as published; checked against gguf 0.19.0.
"""

import re
from collections.abc import Mapping

WHOLE = {
    "token_embd": ("model.embed_tokens", "transformer.wte", "embeddings.word_embeddings", "embed_tokens", "wte"),
    "position_embd": ("transformer.wpe", "embeddings.position_embeddings", "wpe"),
    "output_norm": ("model.norm", "transformer.ln_f", "norm", "ln_f"),
    "output": ("lm_head",),
}
BLOCK = {
    "attn_norm": ("input_layernorm", "ln_1"),
    "attn_qkv": ("self_attn.qkv_proj", "attn.c_attn", "attention.query_key_value"),
    "attn_q": ("self_attn.q_proj", "attention.self.query"),
    "attn_k": ("self_attn.k_proj", "attention.self.key"),
    "attn_v": ("self_attn.v_proj", "attention.self.value"),
    "attn_output": ("self_attn.o_proj", "self_attn.dense", "attn.c_proj", "attention.output.dense"),
    "attn_q_norm": ("self_attn.q_norm",),
    "attn_k_norm": ("self_attn.k_norm",),
    "ffn_norm": ("post_attention_layernorm", "ln_2"),
    "ffn_gate": ("mlp.gate_proj",),
    "ffn_up": ("mlp.up_proj", "mlp.gate_up_proj", "mlp.c_fc", "mlp.fc1", "intermediate.dense"),
    "ffn_down": ("mlp.down_proj", "mlp.c_proj", "mlp.fc2", "output.dense"),
    "ffn_gate_inp": ("mlp.gate", "block_sparse_moe.gate"),
    "ffn_gate_exps": ("mlp.experts.gate_proj",),
    "ffn_up_exps": ("mlp.experts.up_proj",),
    "ffn_down_exps": ("mlp.experts.down_proj",),
}
STEMS = ("model.layers.", "transformer.h.", "encoder.layer.", "layers.", "h.")

_NAME = re.compile(r"(?:blk\.(\d+)\.)?([a-z0-9_]+)\.(weight|bias)")
_REGROUPED = ("llama", "mistral")  # architectures whose query and key rows the converter regroups


def original_names(name: str) -> tuple[str, ...]:
    """List the names that a tensor may have in the original network."""
    found = _NAME.fullmatch(name)
    if found is None:
        return ()
    block, what, last = found.groups()
    if block is None:
        return tuple(f"{other}.{last}" for other in WHOLE.get(what, ()))
    return tuple(f"{stem}{block}.{other}.{last}" for stem in STEMS for other in BLOCK.get(what, ()))


def heads_of(name: str, metadata: Mapping[str, str]) -> int:
    """Count the heads into which the rows of a query or key were regrouped; 0 if they were not."""
    architecture = metadata.get("general.architecture", "")
    found = _NAME.fullmatch(name)
    if architecture not in _REGROUPED or found is None or found[2] not in ("attn_q", "attn_k"):
        return 0
    count = metadata.get(f"{architecture}.attention.head_count", "")
    if found[2] == "attn_k":
        count = metadata.get(f"{architecture}.attention.head_count_kv", count)
    return int(count) if count.isdecimal() else 0
