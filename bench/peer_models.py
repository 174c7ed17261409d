"""How do transformers and JoeyNMT hold a Segue Transformer? Its sizes and weights in theirs.

Runs in the peers' environments, without Segue. `sizes` is a recipe's `model`, complete.
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

LONGEST = 1024
"""Tokens of a sequence, for tables of positions."""
TRANSFORMERS = {
    "target_embedding": "model.shared",
    "encoder": "model.encoder.layers",
    "decoder": "model.decoder.layers",
    "encoder_norm": "model.encoder.layer_norm",
    "decoder_norm": "model.decoder.layer_norm",
    "attention": "self_attn",
    "attention_norm": "self_attn_layer_norm",
    "cross_attention": "encoder_attn",
    "cross_attention_norm": "encoder_attn_layer_norm",
    "query": "q_proj",
    "key": "k_proj",
    "value": "v_proj",
    "output": "out_proj",
    "feed_forward": "",
    "feed_forward_norm": "final_layer_norm",
    "up": "fc1",
    "down": "fc2",
}
JOEYNMT = {
    "target_embedding": "src_embed.lut",
    "query": "q_layer",
    "key": "k_layer",
    "value": "v_layer",
    "output": "output_layer",
    "feed_forward_norm": "feed_forward.layer_norm",
    "up": "pwff_layer.0",
    "down": "pwff_layer.3",
}
JOEYNMT_ENCODER = {"encoder": "encoder.layers", "attention": "src_src_att", "attention_norm": "layer_norm"}
JOEYNMT_DECODER = {
    "decoder": "decoder.layers",
    "attention": "trg_trg_att",
    "attention_norm": "x_layer_norm",
    "cross_attention": "src_trg_att",
    "cross_attention_norm": "dec_layer_norm",
}


def strange(sizes: dict[str, Any]) -> list[str]:
    """The settings that no peer has."""
    same = {"positions": "sinusoidal", "activation": "relu", "tied": "all"}
    return [name for name, value in same.items() if sizes[name] != value]


def transformers(sizes: dict[str, Any], weights: dict[str, Tensor], padding: int, begin: int, end: int) -> Any:
    """MarianMT, which is post-norm, or M2M100, which is pre-norm, with Segue's sinusoids."""
    from transformers import M2M100Config, M2M100ForConditionalGeneration, MarianConfig, MarianMTModel
    from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding

    is_pre = sizes["norm"] == "pre"
    config = (M2M100Config if is_pre else MarianConfig)(
        vocab_size=len(weights["target_embedding.weight"]),
        d_model=sizes["width"],
        encoder_layers=sizes["encoder_layers"],
        decoder_layers=sizes["decoder_layers"],
        encoder_attention_heads=sizes["heads"],
        decoder_attention_heads=sizes["heads"],
        encoder_ffn_dim=sizes["feed_forward"],
        decoder_ffn_dim=sizes["feed_forward"],
        encoder_layerdrop=0.0,
        decoder_layerdrop=0.0,
        activation_function=sizes["activation"],
        dropout=sizes["dropout"],
        attention_dropout=sizes["attention_dropout"],
        activation_dropout=sizes["feed_forward_dropout"],
        max_position_embeddings=LONGEST,
        scale_embedding=True,
        pad_token_id=padding,
        bos_token_id=begin,
        eos_token_id=end,
        decoder_start_token_id=begin,
        forced_eos_token_id=None,  # Marian's own is token 0
    )
    model = (M2M100ForConditionalGeneration if is_pre else MarianMTModel)(config)
    _load(model, {_renamed(name, TRANSFORMERS): weight for name, weight in weights.items()})
    if is_pre:
        # Its own have other wavelengths. Its positions count on from the padding token's number.
        table = MarianSinusoidalPositionalEmbedding(LONGEST, sizes["width"]).create_weight()
        for positions in (model.model.encoder.embed_positions, model.model.decoder.embed_positions):
            positions.weights[padding + 1 : padding + 1 + LONGEST] = table
    return model


def joeynmt(sizes: dict[str, Any], weights: dict[str, Tensor], padding: int, begin: int, end: int) -> Any:
    """JoeyNMT's model, with sines and cosines in halves instead of interleaved. It has one dropout for all places."""
    from joeynmt.model import build_model
    from joeynmt.vocabulary import Vocabulary

    assert sizes["dropout"] == sizes["attention_dropout"] == sizes["feed_forward_dropout"]
    names = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "sep_token": None}
    numbers = {"unk_id": 0, "pad_id": 1, "bos_id": 2, "eos_id": 3, "sep_id": None}
    others = [f"t{number}" for number in range(len(numbers) - 1, len(weights["target_embedding.weight"]))]
    vocabulary = Vocabulary(others, SimpleNamespace(**names, **numbers, lang_tags=[]))
    vocabulary.pad_index, vocabulary.bos_index, vocabulary.eos_index = padding, begin, end
    side = {
        "type": "transformer",
        "num_heads": sizes["heads"],
        "embeddings": {"embedding_dim": sizes["width"], "scale": True, "dropout": sizes["dropout"]},
        "hidden_size": sizes["width"],
        "ff_size": sizes["feed_forward"],
        "dropout": sizes["dropout"],
        "layer_norm": sizes["norm"],
        "activation": sizes["activation"],
    }
    section = {
        "tied_embeddings": True,
        "tied_softmax": True,
        "encoder": {**side, "num_layers": sizes["encoder_layers"]},
        "decoder": {**side, "num_layers": sizes["decoder_layers"]},
    }
    model = build_model(section, src_vocab=vocabulary, trg_vocab=vocabulary)
    sides = {"encoder": JOEYNMT_ENCODER, "decoder": JOEYNMT_DECODER, "target_embedding": {}}
    _load(model, {_renamed(name, JOEYNMT | sides[name.split(".")[0]]): weight for name, weight in weights.items()})
    for positions in (model.encoder.pe, model.decoder.pe):
        positions.pe = torch.cat([positions.pe[:, :, 0::2], positions.pe[:, :, 1::2]], dim=2)
    return model


def padded(rows: list[list[int]], value: int) -> Tensor:
    """(B, longest)"""
    return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


def _renamed(name: str, names: dict[str, str]) -> str:
    """Each part of a dotted name in the peer's words."""
    return ".".join(word for part in name.split(".") if (word := names.get(part, part)))


@torch.no_grad()
def _load(model: nn.Module, weights: dict[str, Tensor]) -> None:
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert parameters.keys() == weights.keys()
    for name, parameter in parameters.items():
        parameter.copy_(weights[name])
