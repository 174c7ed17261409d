"""Builds models of transformers, JoeyNMT, torch and NeMo with the sizes and weights of a Segue model.

Runs in the peers' environments, without Segue. `sizes` is the complete `model` table of a recipe.
"""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

LONGEST = 1024
"""Maximum number of tokens in a sequence, for tables of positions."""
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
TORCH = {
    "encoder_norm": "transformer.encoder.norm",
    "decoder_norm": "transformer.decoder.norm",
    "attention": "self_attn",
    "attention_norm": "norm1",
    "cross_attention": "multihead_attn",
    "cross_attention_norm": "norm2",
    "output": "out_proj",
    "feed_forward": "",
    "up": "linear1",
    "down": "linear2",
}
TORCH_ENCODER = {"encoder": "transformer.encoder.layers", "feed_forward_norm": "norm2"}
TORCH_DECODER = {"decoder": "transformer.decoder.layers", "feed_forward_norm": "norm3"}


def strange(sizes: dict[str, Any]) -> list[str]:
    """The names of settings that no peer supports."""
    same = {"positions": "sinusoidal", "activation": "relu", "tied": "all"}
    return [name for name, value in same.items() if sizes[name] != value]


def transformers(sizes: dict[str, Any], weights: dict[str, Tensor], padding: int, begin: int, end: int) -> Any:
    """MarianMT if the model is post-norm, M2M100 with Segue's sinusoids if it is pre-norm."""
    from transformers import M2M100Config, M2M100ForConditionalGeneration, MarianConfig, MarianMTModel
    from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding

    is_pre = sizes["norm"] == "pre"
    settings = dict[str, Any](
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
        forced_eos_token_id=None,  # Marian's default is token 0
    )
    model: Any  # the attributes of its modules are not typed
    if is_pre:
        model = M2M100ForConditionalGeneration(M2M100Config(**settings))
    else:
        model = MarianMTModel(MarianConfig(**settings))
    _load(model, {_renamed(name, TRANSFORMERS): weight for name, weight in weights.items()})
    if is_pre:
        # M2M100's own sinusoids have other wavelengths. Its positions start after the number of the padding token.
        table = MarianSinusoidalPositionalEmbedding(LONGEST, sizes["width"]).create_weight()
        for positions in (model.model.encoder.embed_positions, model.model.decoder.embed_positions):
            positions.weights[padding + 1 : padding + 1 + LONGEST] = table
    return model


def joeynmt(sizes: dict[str, Any], weights: dict[str, Tensor], padding: int, begin: int, end: int) -> Any:
    """JoeyNMT's model, with sines and cosines in halves, not interleaved. It has a single dropout setting."""
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


def nemo(recipe: dict[str, Any], labels: list[str], weights: Iterable[Tensor]) -> Any:
    """NeMo's EncDecCTCModel with its own front end; `recipe` is complete, `weights` are the parameters in order."""
    from nemo.collections.asr.models import EncDecCTCModel
    from nemo.utils import logging
    from omegaconf import OmegaConf

    logging.setLevel(logging.ERROR)
    sizes, mel_bins = recipe["model"], recipe["features"]["mel_bins"]
    sample_rate_hz = recipe["features"]["sample_rate_hz"]
    blocks = [
        {
            "filters": block["channels"],
            "kernel": [block["kernel"]],
            "repeat": block.get("repeats", 1),
            "stride": [block.get("stride", 1)],
            "dilation": [block.get("dilation", 1)],
            "dropout": block.get("dropout", 0.0),
            "residual": block.get("has_residual", True),
            "residual_dense": block.get("has_residual", True) and sizes["residual"] == "dense",
            "separable": sizes.get("is_separable", False),
        }
        for block in sizes["blocks"]
    ]
    preprocessor = {
        "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
        "sample_rate": sample_rate_hz,
        "features": mel_bins,
        "normalize": "per_feature",
        "window_size": 0.025,
        "window_stride": 0.01,
        "dither": 0.0,
        "pad_to": 0,
    }
    encoder = {
        "_target_": "nemo.collections.asr.modules.ConvASREncoder",
        "feat_in": mel_bins,
        "activation": "relu",
        "conv_mask": True,
        "jasper": blocks,
    }
    decoder = {
        "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
        "feat_in": blocks[-1]["filters"],
        "num_classes": len(labels),
        "vocabulary": labels,
    }
    parts = {"preprocessor": preprocessor, "encoder": encoder, "decoder": decoder}
    model = EncDecCTCModel(cfg=OmegaConf.create({"sample_rate": sample_rate_hz, "labels": labels, **parts}))
    with torch.no_grad():
        for parameter, weight in zip(model.parameters(), weights, strict=True):
            parameter.copy_(weight)
    return model


class TorchTransformer(nn.Module):
    """torch.nn.Transformer with tied embedding and output layer. It has a single dropout setting."""

    def __init__(self, sizes: dict[str, Any], weights: dict[str, Tensor]) -> None:
        super().__init__()
        assert sizes["dropout"] == sizes["attention_dropout"] == sizes["feed_forward_dropout"]
        assert not strange(sizes)
        assert sizes["norm"] == "pre"
        width = sizes["width"]
        self.target_embedding = nn.Embedding(len(weights["target_embedding.weight"]), width)
        self.transformer = nn.Transformer(
            width,
            sizes["heads"],
            sizes["encoder_layers"],
            sizes["decoder_layers"],
            sizes["feed_forward"],
            sizes["dropout"],
            batch_first=True,
            norm_first=True,
        )
        self.dropout = nn.Dropout(sizes["dropout"])
        angles = torch.arange(LONGEST).unsqueeze(1) * 10_000.0 ** (-torch.arange(0, width, 2) / width)
        self.positions: Tensor
        self.register_buffer("positions", torch.cat([angles.sin(), angles.cos()], dim=1), persistent=False)
        self.later: Tensor
        self.register_buffer("later", nn.Transformer.generate_square_subsequent_mask(LONGEST), persistent=False)
        sides = {"encoder": TORCH_ENCODER, "decoder": TORCH_DECODER}
        own = {_renamed(name, TORCH | sides.get(name.split(".")[0], {})): weight for name, weight in weights.items()}
        for name in [name for name in own if ".query." in name]:
            parts = [own.pop(name.replace("query", part)) for part in ("query", "key", "value")]
            own[name.replace("query.", "in_proj_")] = torch.cat(parts)
        _load(self, own)

    def forward(self, source: Tensor, is_padding: Tensor, target: Tensor) -> Tensor:
        """(B, S), (B, S), (B, T) -> (B, T, V) logits."""
        size = target.shape[1]
        x = self.transformer(
            self._embed(source),
            self._embed(target),
            tgt_mask=self.later[:size, :size],
            src_key_padding_mask=is_padding,
            memory_key_padding_mask=is_padding,
            tgt_is_causal=True,
        )
        return nn.functional.linear(x, self.target_embedding.weight)

    def _embed(self, tokens: Tensor) -> Tensor:
        x = self.target_embedding(tokens) * self.target_embedding.embedding_dim**0.5
        return self.dropout(x + self.positions[: tokens.shape[1]])  # type: ignore[no-any-return]


def padded(rows: list[list[int]], value: int) -> Tensor:
    """(B, longest) tokens, padded with `value`."""
    return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


def _renamed(name: str, names: dict[str, str]) -> str:
    """A dotted name with each part replaced by the peer's name."""
    return ".".join(word for part in name.split(".") if (word := names.get(part, part)))


@torch.no_grad()
def _load(model: nn.Module, weights: dict[str, Tensor]) -> None:
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert parameters.keys() == weights.keys()
    for name, parameter in parameters.items():
        parameter.copy_(weights[name])
