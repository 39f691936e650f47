"""Fills a store with the features of pictures."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from excitor.errors import ExcitorError
from excitor.precision import DTYPES
from excitor.vision.arguments import FeatureArguments
from excitor.vision.data import load_image_examples, pictures_of
from excitor.vision.encoder import encode, load_encoder, read_vision_config
from excitor.vision.features import SHARD_BYTES, FeatureStore, digest_all, encoding_of
from excitor.vision.images import find_images, listed, load_image
from excitor.vision.inputs import read_image_processor


def make_features(arguments: FeatureArguments, console: Console | None = None) -> FeatureStore:
    """Encode the pictures that the arguments name.

    Args:
        arguments: What to encode, with what, to where.
        console: Where to print; the terminal when not given.

    Returns:
        The store, with all of them.

    Raises:
        ExcitorError: Something the user can mend; see the message.
    """
    arguments.check()
    console = console or Console()
    name = str(arguments.vision_model)
    encoding = encoding_of(name, arguments.feature_layer, arguments.feature_select)
    image_processor = read_image_processor(name)
    if arguments.data:
        examples = load_image_examples(arguments.data, arguments.images)
        console.print(examples.info.description, highlight=False)
        pictures = pictures_of(examples)
        if not pictures:
            raise ExcitorError(f"{', '.join(arguments.data)}: no row names a picture.")
    else:
        pictures = {str(path): folder for folder in arguments.images for path in find_images(Path(folder))}
    store = FeatureStore.open(str(arguments.out), encoding)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = DTYPES[arguments.precision]
    encoder = load_encoder(name, read_vision_config(name), dtype=dtype).to(device).eval()  # pyright: ignore
    computed = compute_features(
        pictures,
        store,
        partial(encode, encoder, layer=encoding.layer, select=encoding.select),
        image_processor,
        batch_size=arguments.batch_size,
        console=console,
    )
    console.print(
        f"{len(pictures):,} pictures, {computed:,} of them new: {arguments.out} holds the features of {len(store):,}, "
        f"{store.tokens} of width {encoding.width} each."
    )
    return store


@torch.no_grad()
def compute_features(
    pictures: Mapping[str, str],
    store: FeatureStore,
    encode: Callable[[Tensor], Tensor],
    image_processor: Any,
    *,
    batch_size: int = 32,
    console: Console | None = None,
) -> int:
    """Compute what the store lacks; files with the same content are one picture.

    Args:
        pictures: By path, where each is asked for.
        store: Receives the features, a shard at a time: what is interrupted goes on there when called again.
        encode: From pixels ``(N, 3, H, W)`` to features ``(N, V, D)``.
        image_processor: Makes the pixels.
        batch_size: Pictures at a time.
        console: Where the progress is shown.

    Returns:
        How many were computed.

    Raises:
        ExcitorError: Some pictures cannot be used; those that can are in the store by then.
    """
    digests = track(digest_all(pictures), "Reading pictures", len(pictures), console=console, transient=True)
    lacking = {digest: path for path, digest in zip(pictures, digests, strict=True) if digest not in store}
    faults: list[str] = []
    shard = _Shard(store)
    batches = [list(lacking.items())[start : start + batch_size] for start in range(0, len(lacking), batch_size)]
    for batch in track(batches, f"Encoding {len(lacking):,} pictures", console=console, transient=True):
        images = {}
        for digest, path in batch:
            try:
                images[digest] = load_image(path, pictures[path])
            except ExcitorError as error:
                faults.append(str(error))
        if images:
            pixels = image_processor(images=list(images.values()), return_tensors="pt")["pixel_values"]
            shard.add(list(images), encode(pixels).cpu())
    shard.write()
    if faults:
        raise ExcitorError(
            f"{len(faults):,} of {len(pictures):,} pictures cannot be used{listed(faults)}\n"
            f"The features of all others are in {store.folder}."
        )
    return len(lacking)


class _Shard:
    """Features that are not written yet."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._digests: list[str] = []
        self._features: list[Tensor] = []

    def add(self, digests: Sequence[str], features: Tensor) -> None:
        self._digests += digests
        self._features.append(features)
        if sum(part.nbytes for part in self._features) >= SHARD_BYTES:
            self.write()

    def write(self) -> None:
        if self._digests:
            self._store.add(self._digests, torch.cat(self._features))
        self._digests, self._features = [], []
