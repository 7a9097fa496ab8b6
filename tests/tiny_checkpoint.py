"""A checkpoint in the format of the released models, with random weights and tiny widths, and eight clips to try it on.

    python tests/tiny_checkpoint.py FOLDER

writes FOLDER/gram.pt, FOLDER/vocab.txt and FOLDER/media with annotations in the authors' format.
"""

from __future__ import annotations

import json
import re
import sys
import wave
from pathlib import Path

import numpy as np
import torch

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    *["a", "red", "green", "blue", "white", "dark", "clip", "of", "something", "in", "the", "number"],
    *"0123456789",
]
TEXT, VISION, AUDIO, SPACE = 16, 24, 16, 8  # widths

FRAMES, SLICES = 2, 1  # that the context has embeddings for


def _linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _vision() -> dict[str, tuple[int, ...]]:
    """One block on frames of 28 × 28 pixels."""
    prefix, block, w = "vision_encoder.visual.", "vision_encoder.visual.blocks.0.", VISION
    shapes = {
        f"{prefix}cls_token": (1, 1, w),
        f"{prefix}pos_embed": (1, 5, w),
        f"{prefix}patch_embed.proj.weight": (w, 3, 14, 14),
    }
    shapes |= {f"{prefix}patch_embed.proj.bias": (w,), f"{block}attn.q_bias": (w,), f"{block}attn.v_bias": (w,)}
    shapes |= {f"{block}attn.qkv.weight": (3 * w, w), "vision_encoder.logit_scale": ()}
    shapes |= _norm(f"{prefix}norm", w) | _norm(f"{block}norm1", w) | _norm(f"{block}norm2", w)
    shapes |= _linear(f"{block}attn.proj", w, w) | _linear(f"{block}mlp.fc1", 2 * w, w) | _linear(f"{block}mlp.fc2", w, 2 * w)
    return shapes | _linear(f"{prefix}head", 10, w)


def _audio() -> dict[str, tuple[int, ...]]:
    """One layer of two heads."""
    prefix, layer, w = "audio_encoder.", "audio_encoder.encoder.layers.0.", AUDIO
    shapes = {f"{prefix}patch_embedding.weight": (12, 1, 16, 16), f"{prefix}encoder.pos_conv.0.bias": (w,)}
    shapes |= {f"{prefix}encoder.pos_conv.0.weight_g": (1, 1, 8), f"{prefix}encoder.pos_conv.0.weight_v": (w, w // 2, 8)}
    shapes |= {f"{layer}self_attn.grep_a": (1, 2, 1, 1), f"{layer}self_attn.relative_attention_bias.weight": (320, 2)}
    shapes |= _norm(f"{prefix}layer_norm", 12) | _linear(f"{prefix}post_extract_proj", w, 12)
    shapes |= _norm(f"{prefix}encoder.layer_norm", w) | _linear(f"{layer}self_attn.grep_linear", 8, w // 2)
    for name in "qkv":
        shapes |= _linear(f"{layer}self_attn.{name}_proj", w, w)
    shapes |= _linear(f"{layer}self_attn.out_proj", w, w) | _linear(f"{layer}fc1", 2 * w, w) | _linear(f"{layer}fc2", w, 2 * w)
    return shapes | _norm(f"{layer}self_attn_layer_norm", w) | _norm(f"{layer}final_layer_norm", w)


def _text() -> dict[str, tuple[int, ...]]:
    """Two layers."""
    prefix, w = "multimodal_encoder.bert.", TEXT
    shapes = {f"{prefix}embeddings.word_embeddings.weight": (len(WORDS), w), f"{prefix}embeddings.position_ids": (1, 128)}
    shapes |= {f"{prefix}embeddings.position_embeddings.weight": (128, w)}
    shapes |= {f"{prefix}embeddings.token_type_embeddings.weight": (2, w)} | _norm(f"{prefix}embeddings.LayerNorm", w)
    for layer in (f"{prefix}encoder.layer.0.", f"{prefix}encoder.layer.1."):
        for attention in ("attention", "crossattention"):
            for name in ("self.query", "self.key", "self.value", "output.dense"):
                shapes |= _linear(f"{layer}{attention}.{name}", w, w)
            shapes |= _norm(f"{layer}{attention}.output.LayerNorm", w)
        shapes |= _linear(f"{layer}intermediate.dense", 2 * w, w) | _linear(f"{layer}output.dense", w, 2 * w)
        shapes |= _norm(f"{layer}output.LayerNorm", w)
    return shapes | {"multimodal_encoder.cls.predictions.bias": (len(WORDS),)}


def _rest() -> dict[str, tuple[int, ...]]:
    shapes = {"contra_temp": (), "vision_frame_embedding": (1, FRAMES, TEXT), "audio_frame_embedding": (1, SLICES, TEXT)}
    shapes |= {f"{name}_type_embeddings": (1, 1, TEXT) for name in ("vision", "audio", "subtitle")}
    widths = {"t": TEXT, "s": TEXT, "v": VISION, "a": AUDIO, "d": VISION}
    shapes |= {f"contra_head_{letter}.linear.weight": (SPACE, width) for letter, width in widths.items()}
    for letters in ("va", "vs", "vas"):
        shapes |= _linear(f"contra_head_{letters}", SPACE, sum(widths[letter] for letter in letters))
    for name, width in {"vision": VISION, "audio": AUDIO, "subtitle": TEXT}.items():
        shapes |= _linear(f"hidden_trans_{name}_multimodal.0", TEXT, width) | _norm(f"hidden_trans_{name}_multimodal.1", TEXT)
    return (
        shapes
        | _linear("itm_head.linear1", TEXT, TEXT)
        | _norm("itm_head.layernorm", TEXT)
        | _linear("itm_head.linear2", 2, TEXT)
    )


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights by the names of a released checkpoint of five modalities."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in (_vision() | _audio() | _text() | _rest()).items():
        noise = torch.randn(shape, generator=generator)
        if name == "contra_temp":
            tensors[name] = torch.tensor(0.07)
        elif name.endswith("position_ids"):
            tensors[name] = torch.arange(shape[1])[None]
        elif len(shape) == 1:
            tensors[name] = 1 + 0.2 * noise if re.search(r"(norm\d?|LayerNorm|multimodal\.1)\.weight$", name) else 0.2 * noise
        else:
            tensors[name] = noise if "embed" in name or "token" in name else noise * 1.5 / max(1, np.prod(shape[1:])) ** 0.5
    return tensors


def write_checkpoint(folder: Path) -> tuple[Path, Path]:
    """The checkpoint and its vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(weights(), folder / "gram.pt")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return folder / "gram.pt", folder / "vocab.txt"


def write_media(folder: Path, items: int = 8) -> Path:
    """Clips of a colour, each with a tone, half of them to train on; annotations in the authors' format beside them.

    The last subtitle is empty.
    """
    import av

    (folder / "videos").mkdir(parents=True, exist_ok=True)
    (folder / "audios").mkdir(exist_ok=True)
    records = []
    for i in range(items):
        colour = ("red", "green", "blue", "white")[i % 4]
        frame = np.full((32, 48, 3), 20 + 10 * i, np.uint8)
        frame[:, :, i % 4 if i % 4 < 3 else slice(None)] = 220
        with av.open(str(folder / "videos" / f"video{i}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=4)
            stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
            for _ in range(4):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        with wave.open(str(folder / "audios" / f"video{i}.wav"), "wb") as sound:
            sound.setnchannels(1), sound.setsampwidth(2), sound.setframerate(16_000)
            tone = 9000 * np.sin(2 * np.pi * 150 * (i + 1) * np.arange(4000) / 16_000)
            sound.writeframes(tone.astype("<i2").tobytes())
        caption = [f"a {colour} clip number {i}", f"something {colour}"]
        records.append({"video_id": f"video{i}", "caption": caption, "subtitle": f"the number {i}" if i < items - 1 else ""})
    half = items // 2
    (folder / "descs_ret_train.json").write_text(json.dumps(records[:half]))
    (folder / "descs_ret_test.json").write_text(json.dumps(records[half:]))
    return folder


if __name__ == "__main__":
    here = Path(sys.argv[1])
    print(*write_checkpoint(here), write_media(here / "media"), sep="\n")
