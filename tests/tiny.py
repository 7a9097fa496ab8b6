"""Tiny random encoders of the families that towers are tried with, written as transformers would download them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

WORDS = "[PAD] [UNK] [CLS] [SEP] a the red green blue cat dog bird house of and in runs sings two three".split()  # noqa: SIM905


def tokenizer(limit: int = 32) -> object:
    """Words of a fixed list, between a beginning and an end."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[CLS]", "eos_token": "[SEP]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, model_max_length=limit, model_input_names=["input_ids", "attention_mask"], **names
    )


_WIDTHS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
TEXT = _WIDTHS | {
    "vocab_size": len(WORDS),
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
_VISION = _WIDTHS | {"image_size": 32, "patch_size": 8}
_PIXELS = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
_SIDE = {"height": 32, "width": 32}
_CONVOLUTIONS = {"conv_dim": (8, 8), "conv_stride": (8, 8), "conv_kernel": (8, 8), "vocab_size": 8, "mask_time_prob": 0.0}
_POSITIONS = {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}


def bert(folder: Path) -> None:
    from transformers import BertConfig, BertModel

    _write(folder, BertModel(BertConfig(**TEXT)), tokenizer())


def clip(folder: Path) -> None:
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    config = CLIPConfig(
        text_config=TEXT | {"projection_dim": 12}, vision_config=_VISION | {"projection_dim": 12}, projection_dim=12
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=_SIDE, **_PIXELS)
    _write(folder, CLIPModel(config), tokenizer(), images)


def siglip2(folder: Path) -> None:
    from transformers import Siglip2Config, Siglip2ImageProcessorPil, Siglip2Model

    vision = _WIDTHS | {"patch_size": 8, "num_patches": 16}
    config = Siglip2Config(text_config=TEXT | {"projection_size": 16}, vision_config=vision)
    _write(folder, Siglip2Model(config), tokenizer(), Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16))


def clap(folder: Path, is_fused: bool = False) -> None:
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    audio = {
        "hidden_size": 64,
        "patch_embeds_hidden_size": 8,
        "depths": [1, 1],
        "num_attention_heads": [2, 2],
        "num_hidden_layers": 2,
        "num_mel_bins": 16,
        "spec_size": 64,
        "window_size": 4,
        "patch_size": 4,
        "patch_stride": [4, 4],
        "projection_dim": 12,
    }
    audio["hidden_size"] = 16
    audio |= {"enable_fusion": is_fused, "fusion_type": "aff_2d"} if is_fused else {}
    config = ClapConfig(
        text_config=TEXT | {"max_position_embeddings": 40, "projection_dim": 12, "pad_token_id": 0},
        audio_config=audio,
        projection_dim=12,
    )
    sounds = ClapFeatureExtractor(
        feature_size=16,
        sampling_rate=16_000,
        hop_length=160,
        fft_window_size=400,
        max_length_s=1,
        frequency_max=8000,
        truncation="fusion" if is_fused else "rand_trunc",
    )
    _write(folder, ClapModel(config), tokenizer(), sounds)


def dinov2(folder: Path) -> None:
    from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

    images = BitImageProcessorPil(size={"shortest_edge": 32}, crop_size=_SIDE, **_PIXELS)
    _write(folder, Dinov2Model(Dinov2Config(**_VISION | {"mlp_ratio": 2})), images)


def dinov3(folder: Path) -> None:
    from transformers import CLIPImageProcessorPil, DINOv3ViTConfig, DINOv3ViTModel

    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=_SIDE, **_PIXELS)
    _write(folder, DINOv3ViTModel(DINOv3ViTConfig(**_VISION, num_register_tokens=2)), images)


def resnet(folder: Path) -> None:
    from transformers import ResNetConfig, ResNetModel, ViTImageProcessorPil

    _write(
        folder,
        ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])),
        ViTImageProcessorPil(size=_SIDE),
    )


def wav2vec2(folder: Path) -> None:
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    config = Wav2Vec2Config(**_WIDTHS, **_CONVOLUTIONS, **_POSITIONS, feat_extract_norm="layer")
    _write(folder, Wav2Vec2Model(config), Wav2Vec2FeatureExtractor(return_attention_mask=True))


def whisper(folder: Path) -> None:
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    config = WhisperConfig(
        vocab_size=20,
        d_model=16,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        num_mel_bins=80,
        max_source_positions=100,
        max_target_positions=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    _write(folder, WhisperModel(config), WhisperFeatureExtractor(chunk_length=2))


def ast(folder: Path) -> None:
    from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

    config = ASTConfig(**_WIDTHS, max_length=64, num_mel_bins=16, patch_size=8, frequency_stride=8, time_stride=8)
    _write(folder, ASTModel(config), ASTFeatureExtractor(num_mel_bins=16, max_length=64))


def videomae(folder: Path) -> None:
    from transformers import VideoMAEConfig, VideoMAEImageProcessorPil, VideoMAEModel

    config = VideoMAEConfig(**_VISION, num_frames=4, tubelet_size=2, use_mean_pooling=False)
    _write(folder, VideoMAEModel(config), VideoMAEImageProcessorPil(size={"shortest_edge": 32}, crop_size=_SIDE))


def pe_audio(folder: Path) -> None:
    """The audio half of PE-AV; its video half needs timm, and that torchvision."""
    from transformers import PeAudioConfig, PeAudioFeatureExtractor, PeAudioModel

    dac = {"encoder_hidden_size": 4, "downsampling_ratios": [4, 4], "codebook_dim": 4, "codebook_size": 8, "hidden_size": 16}
    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8}
    text = {"model_type": "modernbert", **TEXT, "global_attn_every_n_layers": 1, "cls_token_id": 2, "sep_token_id": 3}
    config = PeAudioConfig(text_config=text, audio_config=small | {"dac_config": dac})
    _write(folder, PeAudioModel(config), tokenizer(), PeAudioFeatureExtractor(sampling_rate=16_000, hop_length=16))


def wav2vec2_group(folder: Path) -> None:
    """As wav2vec2-base: a norm over all samples, padding too."""
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    config = Wav2Vec2Config(**_WIDTHS, **_CONVOLUTIONS, **_POSITIONS, feat_extract_norm="group")
    _write(folder, Wav2Vec2Model(config), Wav2Vec2FeatureExtractor(return_attention_mask=False))


def data2vec_audio(folder: Path) -> None:
    from transformers import Data2VecAudioConfig, Data2VecAudioModel, Wav2Vec2FeatureExtractor

    config = Data2VecAudioConfig(**_WIDTHS, **_CONVOLUTIONS, **_POSITIONS, conv_pos_kernel_size=5)
    _write(folder, Data2VecAudioModel(config), Wav2Vec2FeatureExtractor(return_attention_mask=True))


def w2v_bert(folder: Path, **options: object) -> None:
    from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2BertModel

    sizes = {"feature_projection_input_dim": 160, "conv_depthwise_kernel_size": 3}
    config = Wav2Vec2BertConfig(**_WIDTHS, **sizes, mask_time_prob=0.0, **options)
    _write(folder, Wav2Vec2BertModel(config), SeamlessM4TFeatureExtractor())


def w2v_bert_adapter(folder: Path) -> None:
    w2v_bert(folder, add_adapter=True)


def parakeet(folder: Path) -> None:
    from transformers import ParakeetEncoder, ParakeetEncoderConfig, ParakeetFeatureExtractor

    config = ParakeetEncoderConfig(**_WIDTHS, num_mel_bins=80, subsampling_conv_channels=8)
    _write(folder, ParakeetEncoder(config), ParakeetFeatureExtractor(feature_size=80))


def speech_to_text(folder: Path) -> None:
    from transformers import Speech2TextConfig, Speech2TextFeatureExtractor, Speech2TextModel

    half = {"layers": 1, "attention_heads": 2, "ffn_dim": 24}
    halves = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in half.items()}
    config = Speech2TextConfig(**halves, d_model=16, vocab_size=20, conv_channels=16, max_source_positions=200)
    _write(folder, Speech2TextModel(config), Speech2TextFeatureExtractor())


def fnet(folder: Path) -> None:
    from transformers import FNetConfig, FNetModel

    _write(folder, FNetModel(FNetConfig(**TEXT)), tokenizer())


def convbert(folder: Path) -> None:
    from transformers import ConvBertConfig, ConvBertModel

    _write(folder, ConvBertModel(ConvBertConfig(**TEXT, head_ratio=1, embedding_size=16)), tokenizer())


MORE: dict[str, tuple[Callable[[Path], None], str]] = {
    "wav2vec2_group": (wav2vec2_group, "audio"),
    "data2vec_audio": (data2vec_audio, "audio"),
    "w2v_bert": (w2v_bert, "audio"),
    "w2v_bert_adapter": (w2v_bert_adapter, "audio"),
    "parakeet": (parakeet, "audio"),
    "speech_to_text": (speech_to_text, "audio"),
    "clap_fused": (lambda folder: clap(folder, is_fused=True), "audio"),
    "fnet": (fnet, "text"),
    "convbert": (convbert, "text"),
}
"""Families of which padding, or the processor, would change a vector with its batch mates: writer and kind."""


FAMILIES: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "bert": (bert, ("text",)),
    "clip": (clip, ("text", "image", "video")),
    "siglip2": (siglip2, ("text", "image")),
    "clap": (clap, ("text", "audio")),
    "dinov2": (dinov2, ("image", "video")),
    "dinov3": (dinov3, ("image",)),
    "resnet": (resnet, ("image",)),
    "wav2vec2": (wav2vec2, ("audio",)),
    "whisper": (whisper, ("audio",)),
    "pe_audio": (pe_audio, ("audio",)),
    "ast": (ast, ("audio",)),
    "videomae": (videomae, ("video",)),
}
"""Name → (writer, the kinds that it reads)."""


def _write(folder: Path, *parts: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        part.save_pretrained(folder)  # type: ignore[attr-defined]


def build(family: str, folder: Path) -> str:
    """Write a model of the family below `folder`; the same weights each time. Return its path."""
    path = folder / family
    if not path.exists():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            (FAMILIES | MORE)[family][0](path)
    return str(path)
